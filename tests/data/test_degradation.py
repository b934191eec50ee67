"""Whole degradations: against runs of BasicSR's operators, and as pure functions."""

import copy
import dataclasses
import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest

from tvt_jax.config import MILD, STRONG
from tvt_jax.data.degradation import Recipe, degrade, draw_recipe, smallest_side
from tvt_jax.data.degradation.blur import blur
from tvt_jax.data.degradation.recipe import (
    Blur,
    GaussianNoise,
    Jpeg,
    PoissonNoise,
    Resize,
    Sinc,
)
from tvt_jax.inference import sizing

GOLDEN = np.load(Path(__file__).parent.parent / "golden" / "degradation_pipeline.npz")
RUNS = json.loads(str(GOLDEN["meta_json"]))
STORED_UNIT = 1 / 8192  # of the intermediate results


@dataclasses.dataclass
class RecordedBlur:
    kernel: np.ndarray

    def apply(self, image):
        return blur(image, self.kernel)


@dataclasses.dataclass
class RecordedNoise:
    result: np.ndarray

    def apply(self, image):
        assert image.shape == self.result.shape
        return self.result


class Checked:
    """Runs an operation and compares what it gives with the reference."""

    def __init__(self, operation, expected):
        self.operation, self.expected, self.wrong = operation, expected, None

    def apply(self, image):
        before = image.copy()
        image.flags.writeable = False  # operations must not change what they are given
        result = self.operation.apply(image)
        np.testing.assert_array_equal(image, before)
        if self.expected is not None:
            step = result.shape[0] // self.expected.shape[0]  # large results are stored in part
            difference = result[::step, ::step] - self.expected * STORED_UNIT
            self.wrong = np.mean(np.abs(difference) > 1 / 255)
            # Beyond the levels that the aim asks for: most values agree to float32's accuracy.
            assert np.quantile(np.abs(difference), 0.99) < 2 * STORED_UNIT
        return result


def recorded_run(case):
    """The recipe of a run of the reference, with its draws, and the image that it got."""
    image = GOLDEN["image"].astype(np.float32) / 255
    if RUNS[case]["hflip"]:
        image = np.ascontiguousarray(image[:, ::-1])
    height, width = image.shape[:2]
    operations = []
    for i, stage in enumerate(RUNS[case]["stages"]):
        name = f"c{case}_s{i}"
        expected = GOLDEN[name] if name in GOLDEN else None
        if stage["op"] == "filter2D":
            operation = RecordedBlur(GOLDEN[f"c{case}_k{i}"])
        elif stage["op"] == "diffjpeg":
            operation = Jpeg(stage["quality"], "diffjpeg")
        elif stage["op"] == "resize":
            factor = stage["scale_factor"] or 0.0
            size = stage["size"] or [math.floor(height * factor), math.floor(width * factor)]
            operation = Resize(*size, stage["mode"], factor)
        else:
            operation, expected = RecordedNoise(expected), None
        operations.append(Checked(operation, expected))
    enlargement = operations.pop().operation
    return Recipe(height, width, tuple(operations), enlargement), image


@pytest.mark.parametrize("case", range(len(RUNS)))
def test_stage_by_stage_like_the_reference(case):
    recipe, image = recorded_run(case)
    lr, conditioning = degrade(image, recipe)
    compared = [o.wrong for o in recipe.operations if o.wrong is not None]
    assert len(compared) >= 6
    assert max(compared) <= 1e-4
    assert lr.shape == (20, 24, 3)
    difference = np.abs(np.rint(conditioning * 255) - GOLDEN[f"c{case}_conditioning"])
    assert difference.max() <= 1
    assert np.mean(difference > 0) <= 1e-4


def kind_of(operation):
    names = {Blur: "filter2D", Sinc: "filter2D", Resize: "resize", Jpeg: "diffjpeg"}
    names |= {GaussianNoise: "gaussian_noise", PoissonNoise: "poisson_noise"}
    return names[type(operation)]


def test_drawn_recipes_have_the_order_of_the_reference():
    """Every recorded order of operations is drawn, and no order that the reference cannot have."""
    orders = set()
    rng = np.random.default_rng(0)
    for _ in range(500):
        recipe = draw_recipe(STRONG, rng, 80, 96)
        orders.add(tuple(kind_of(o) for o in (*recipe.operations, recipe.enlargement)))
    for run in RUNS:
        assert tuple(s["op"] for s in run["stages"]) in orders
    # Two noises twice, second blur or not, final filter or not, two orders at the end.
    assert len(orders) == 2 * 2 * 2 * 2 * 2


def photograph(height, width, seed=0):
    y, x = np.mgrid[:height, :width].astype(np.float32)
    rng = np.random.default_rng(seed)
    image = np.stack([np.sin(x / 9 + y / 17), np.cos(x * y / 900), np.sin(y / 5)], -1) * 0.4 + 0.5
    image += rng.normal(0, 0.02, image.shape)
    return np.clip(image, 0, 1).astype(np.float32)


@pytest.mark.parametrize("config", [MILD, STRONG], ids=["mild", "strong"])
def test_results_have_their_shapes_ranges_and_levels(config):
    rng = np.random.default_rng(0)
    least = smallest_side(config)
    likeness = []
    for height, width in [(least, least), (80, 132), (160, 96)] * 12:
        image = photograph(height, width)
        lr, conditioning = degrade(image, draw_recipe(config, rng, height, width))
        assert lr.shape == (height // 4, width // 4, 3) and conditioning.shape == image.shape
        for result in (lr, conditioning):
            assert result.dtype == np.float32
            levels = np.rint(result * 255)
            assert levels.min() >= 0 and levels.max() <= 255
            np.testing.assert_array_equal(result, levels.astype(np.float32) / 255)
        likeness.append(np.corrcoef(conditioning.ravel(), image.ravel())[0, 1])
    # Of tiny images some lose everything, but most still show what they showed.
    assert np.median(likeness) > 0.6


@pytest.mark.parametrize("codec", ["diffjpeg", "libjpeg"])
def test_the_same_recipe_gives_the_same_bytes(codec):
    config = copy.deepcopy(STRONG)
    config.jpeg_codec = codec
    image = photograph(96, 128)
    image.flags.writeable = False
    rng = np.random.default_rng(5)
    for _ in range(20):
        recipe = draw_recipe(config, rng, 96, 128)
        replayed = pickle.loads(pickle.dumps(recipe))
        assert replayed == recipe
        first, second = degrade(image, recipe), degrade(image.copy(), replayed)
        assert all(a.tobytes() == b.tobytes() for a, b in zip(first, second, strict=True))


def test_low_resolution_is_enlarged_as_inference_does():
    config = copy.deepcopy(STRONG)
    config.enlarge_as_inference = True
    image = photograph(512, 528)  # inference enlarges smaller ones in two steps
    lr, conditioning = degrade(image, draw_recipe(config, np.random.default_rng(0), 512, 528))
    lr = np.rint(lr * 255).astype(np.uint8)
    expected = sizing.enlarge(lr, sizing.plan_sizes(132, 128, 4))
    np.testing.assert_array_equal(np.rint(conditioning * 255), expected)


def test_the_result_does_not_hang_on_the_image_or_on_what_ran_before():
    rng = np.random.default_rng(6)
    recipes = [draw_recipe(MILD, rng, 96, 96) for _ in range(6)]
    image = photograph(96, 96)
    forwards = [degrade(image, r)[1] for r in recipes]
    kept = [f.copy() for f in forwards]
    backwards = [degrade(image, r)[1] for r in reversed(recipes)][::-1]
    for a, b, c in zip(forwards, kept, backwards, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)


def test_nothing_uses_the_global_generators():
    import random

    random.seed(1)
    np.random.seed(1)
    expected = random.random(), np.random.random()
    random.seed(1)
    np.random.seed(1)
    image = photograph(96, 96)
    for seed in range(5):
        degrade(image, draw_recipe(STRONG, np.random.default_rng(seed), 96, 96))
    assert (random.random(), np.random.random()) == expected


def test_a_recipe_for_another_image_is_refused():
    recipe = draw_recipe(MILD, np.random.default_rng(0), 96, 128)
    for image in (photograph(128, 96), photograph(96, 128).astype(np.float64)):
        with pytest.raises(ValueError, match="96x128x3"):
            degrade(image, recipe)
