"""Resizing against `torch.nn.functional.interpolate`."""

import math

import numpy as np
import pytest
import torch

from tvt_jax.data.degradation.resize import resize

# OpenCV and PyTorch round the positions between pixels differently: an eighth of a level at most.
INTERPOLATED = 1e-4
MEAN = 5e-7  # float32 means of a few pixels


def image(height, width, seed=0):
    return np.random.default_rng(seed).random((height, width, 3), dtype=np.float32)


def torch_resize(array, mode, **target):
    tensor = torch.from_numpy(array).permute(2, 0, 1)[None]
    result = torch.nn.functional.interpolate(tensor, mode=mode, **target)
    return result[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("mode", ["area", "bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((96, 128), (24, 32)),
        ((96, 128), (29, 38)),
        ((77, 61), (24, 20)),
        ((77, 61), (76, 60)),
        ((24, 32), (96, 128)),
        ((24, 33), (29, 40)),
        ((20, 24), (20, 24)),
        ((24, 30), (48, 45)),
        ((22, 27), (20, 30)),
    ],
)
def test_to_a_size(mode, before, after):
    array = image(*before)
    got = resize(array, *after, mode)
    assert got.dtype == np.float32
    tolerance = MEAN if mode == "area" else INTERPOLATED
    np.testing.assert_allclose(got, torch_resize(array, mode, size=after), rtol=0, atol=tolerance)


@pytest.mark.parametrize("mode", ["area", "bilinear", "bicubic"])
@pytest.mark.parametrize(
    "scale", [0.1531, 0.30832117967102024, 0.5, 0.7347936829385064, 0.997, 1.0, 1.0031, 1.4999]
)
def test_by_a_factor_that_does_not_fit_the_size(mode, scale):
    """The reference's first resize: the size is rounded down, the positions are not adapted."""
    array = image(96, 130)
    size = math.floor(96 * scale), math.floor(130 * scale)
    expected = torch_resize(array, mode, scale_factor=scale)
    assert expected.shape[:2] == size
    got = resize(array, *size, mode, scale)
    tolerance = MEAN if mode == "area" else INTERPOLATED
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance)


def test_area_by_whole_factors_repeats_pixels():
    array = image(5, 7)
    np.testing.assert_array_equal(
        resize(array, 20, 28, "area"), array.repeat(4, axis=0).repeat(4, axis=1)
    )


def test_views_and_read_only_images_are_fine():
    array = image(50, 60)
    array.flags.writeable = False
    for mode in ("area", "bilinear", "bicubic"):
        got = resize(array[:40, :44], 23, 31, mode)
        np.testing.assert_array_equal(got, resize(array[:40, :44].copy(), 23, 31, mode))
