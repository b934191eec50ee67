"""Sizes: exact outputs, the release's working sizes, bounds for odd shapes."""

import numpy as np
import pytest

from tvt_jax.inference.sizing import enlarge, pad, plan_sizes, to_output


def test_outputs_are_exact_for_any_size_and_scale():
    rng = np.random.default_rng(0)
    for _ in range(300):
        width, height = rng.integers(1, 400, 2).tolist()
        scale = float(rng.choice([1, 1.5, 2, 3, 3.7, 4, 8]))
        plan = plan_sizes(width, height, scale)
        assert plan.output == (max(1, round(width * scale)), max(1, round(height * scale)))
        assert min(plan.working) >= 1


@pytest.mark.parametrize("size", [(128, 128), (130, 333), (512, 200), (1000, 700)])
def test_large_enough_inputs_are_only_scaled(size):
    plan = plan_sizes(*size, 4)
    assert plan.enlarged == size
    assert plan.working == plan.output == (4 * size[0], 4 * size[1])


@pytest.mark.parametrize(
    ("size", "enlarged"),
    [
        ((64, 64), (128, 128)),
        ((64, 100), (128, 200)),
        ((101, 100), (129, 128)),  # 129.28, cut off as the release does
        ((49, 98), (128, 256)),  # the release's floating point gives 127 here
        ((1, 1), (128, 128)),
    ],
)
def test_small_inputs_are_enlarged_to_the_training_size(size, enlarged):
    plan = plan_sizes(*size, 4)
    assert plan.enlarged == enlarged
    assert plan.working == (4 * enlarged[0], 4 * enlarged[1])


def test_scale_sets_how_far_small_inputs_are_enlarged():
    assert plan_sizes(100, 100, 2).working == (512, 512)
    assert plan_sizes(100, 100, 1).working == (512, 512)


@pytest.mark.parametrize("size", [(1, 1000), (3000, 2), (1, 20), (5, 90)])
def test_strips_do_not_explode(size):
    plan = plan_sizes(*size, 4)
    assert max(plan.working) <= max(2048, 4 * max(size))
    assert plan.output == (4 * size[0], 4 * size[1])


def test_padding_mirrors_and_keeps_the_image():
    image = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    padded = pad(image, 8)
    assert padded.shape == (8, 8, 3)
    np.testing.assert_array_equal(padded[:5, :7], image)
    np.testing.assert_array_equal(padded[5, :7], image[3])
    np.testing.assert_array_equal(padded[:5, 7], image[:, 5])
    assert pad(padded, 8) is not None and pad(padded, 8).shape == (8, 8, 3)
    assert pad(image[:1, :1], 8).shape == (8, 8, 3)
    assert pad(image[:2, :1], 8).shape == (8, 8, 3)


def test_enlarging_is_pillows_bicubic_in_two_steps():
    from PIL import Image

    image = np.random.default_rng(0).integers(0, 256, (64, 70, 3), np.uint8)
    plan = plan_sizes(70, 64, 4)
    picture = Image.fromarray(image).resize(plan.enlarged, Image.Resampling.BICUBIC)
    picture = picture.resize(plan.working, Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(enlarge(image, plan), np.asarray(picture))
    assert to_output(enlarge(image, plan), plan).shape == (256, 280, 3)
