"""Kernels against those of BasicSR, and correlation against BasicSR and scipy."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from tvt_jax.config import DegradationConfig, DegradationPass
from tvt_jax.data.degradation.blur import blur
from tvt_jax.data.degradation.draw import _Draw
from tvt_jax.data.degradation.kernels import blur_kernel, sinc_kernel
from tvt_jax.data.degradation.recipe import Sinc

GOLDEN = np.load(Path(__file__).parent.parent / "golden" / "degradation_kernels.npz")
CASES = json.loads(str(GOLDEN["meta_json"]))
KINDS = ["iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso"]
SIZES = [7, 9, 11, 13, 15, 17, 19, 21]


def padded(kernel, size):
    return np.pad(kernel, (size - len(kernel)) // 2)


@pytest.mark.parametrize("case", [c for c in CASES if "draws" not in c], ids=lambda c: c["index"])
def test_equals_the_reference(case):
    if case["type"] == "sinc":
        kernel = sinc_kernel(case["base_size"], case["cutoff"])
    else:
        kernel = blur_kernel(
            case["type"], case["size"], case["sig_x"], case["sig_y"], case["theta"],
            case.get("beta", 1.0),
        )  # fmt: skip
    got = padded(kernel, case["size"])
    np.testing.assert_allclose(got, GOLDEN[f"k{case['index']:02}"], rtol=0, atol=1e-12)


class RecordedDraws:
    """Gives the draws that the reference made, and checks that they are the ones asked for."""

    def __init__(self, draws, probabilities):
        self._draws = iter(draws)
        self._probabilities = probabilities

    def integers(self, count):
        name, value = next(self._draws)
        assert (name, count) == ("py.choice", len(SIZES))
        return SIZES.index(value)

    def random(self):
        name, *values = next(self._draws)
        if name == "py.choices":  # any number that falls to this kind
            place = KINDS.index(values[0])
            return sum(self._probabilities[:place]) + self._probabilities[place] / 2
        assert (name, *values[:2]) == ("np.uniform", 0.0, 1.0)
        return values[2]

    def uniform(self, low, high):
        name, *values = next(self._draws)
        assert name == "np.uniform"
        assert values[:2] == pytest.approx([low, high], abs=1e-15)
        return values[2]

    def all_used(self):
        return next(self._draws, None) is None


@pytest.mark.parametrize("case", [c for c in CASES if "draws" in c], ids=lambda c: c["index"])
def test_the_reference_draws_give_its_kernel(case):
    settings = DegradationPass()
    # The first draw is whether to blur at all, which the reference does not ask here.
    draws = RecordedDraws([["np.uniform", 0.0, 1.0, 0.0], *case["draws"]], settings.kernel_prob)
    (operation,) = _Draw(DegradationConfig(), draws).blur(settings)
    assert draws.all_used()
    if isinstance(operation, Sinc):
        kernel = sinc_kernel(operation.size, operation.cutoff)
    else:
        kernel = blur_kernel(**vars(operation))
    np.testing.assert_allclose(kernel, GOLDEN[f"k{case['index']:02}"], rtol=0, atol=1e-12)


def test_sinc_has_its_known_properties():
    kernel = sinc_kernel(21, math.pi)
    assert kernel.sum() == pytest.approx(1)
    assert kernel.min() == pytest.approx(-0.077, abs=1e-3)
    assert kernel[10, 10] == pytest.approx(0.79, abs=1e-2)


@pytest.mark.parametrize("index", GOLDEN["filter_index"])
def test_blur_equals_the_reference(index):
    kernel = padded(GOLDEN[f"k{index:02}"], 21)
    got = blur(GOLDEN["filter_img"], kernel)
    # float32 sums of up to 441 products, in the Fourier domain for some kernels.
    np.testing.assert_allclose(got, GOLDEN[f"filtered_{index:02}"], rtol=0, atol=3e-6)


@pytest.mark.parametrize(
    ("rows", "columns"), [(1, 1), (3, 3), (11, 11), (5, 21), (13, 13), (21, 15), (21, 21)]
)
@pytest.mark.parametrize("separable", [False, True])
@pytest.mark.parametrize("shape", [(40, 64, 3), (23, 31, 3)])
def test_blur_equals_correlation_in_float64(rows, columns, separable, shape):
    rng = np.random.default_rng(rows * columns)
    if separable:
        kernel = np.outer(rng.random(rows), rng.random(columns) + 0.1)
    else:
        kernel = rng.random((rows, columns))
    kernel /= kernel.sum()
    image = rng.random(shape, dtype=np.float32)
    expected = ndimage.correlate(image.astype(np.float64), kernel[..., None], mode="mirror")
    np.testing.assert_allclose(blur(image, kernel), expected, rtol=0, atol=2e-6)


def test_blur_leaves_its_image_alone_and_takes_views():
    image = np.random.default_rng(0).random((40, 50, 3), dtype=np.float32)
    view = image[:32, :40]
    before = image.copy()
    for kernel in (blur_kernel("iso", 9, 1, 1, 0, 1), sinc_kernel(9, 2.0), sinc_kernel(21, 2.0)):
        got = blur(view, kernel)
        np.testing.assert_array_equal(image, before)
        np.testing.assert_allclose(got, blur(view.copy(), kernel), rtol=0, atol=1e-7)


def test_an_impulse_changes_nothing():
    image = np.random.default_rng(0).random((30, 30, 3), dtype=np.float32)
    impulse = np.zeros((21, 21))
    impulse[10, 10] = 1
    np.testing.assert_array_equal(blur(image, impulse), image)
