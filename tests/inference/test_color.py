"""Colour fixes against reference arrays of the original implementation."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from tvt_jax.inference.color import color_fix, from_lab, low_frequencies, to_lab

GOLDEN = np.load(Path(__file__).parent.parent / "golden" / "color_fix.npz")


def image(name):
    return GOLDEN[name].astype(np.float32) / 255


@pytest.mark.parametrize(
    ("case", "method"),
    [("b", "adain"), ("b", "wavelet"), ("c", "adain"), ("c", "wavelet"), ("d", "adain")],
)
def test_equals_the_reference(case, method):
    got = color_fix(image(f"{case}_target"), image(f"{case}_source"), method)
    # The means over float32 pixels are summed in another order: a few units of the last place.
    np.testing.assert_allclose(got, GOLDEN[f"{case}_{method}_float"], atol=2e-6)


@pytest.mark.parametrize("case", ["b", "c"])
def test_low_frequencies_equal_the_reference(case):
    got = low_frequencies(image(f"{case}_target"))
    np.testing.assert_allclose(got, GOLDEN[f"{case}_target_low"], atol=1e-6)


def test_flat_patches_keep_the_colour_of_the_input():
    source = np.full((40, 30, 3), (0.2, 0.5, 0.8), np.float32)
    shifted = source + np.array([0.1, -0.1, 0.05], np.float32).reshape(1, 1, 3)
    for method in ("adain", "wavelet", "lab"):
        got = np.asarray(color_fix(shifted, source, method))
        assert np.abs(got.mean((0, 1)) - source.mean((0, 1))).max() < 1 / 255


def test_lab_is_that_of_opencv_and_matches_its_statistics():
    target, source = image("b_target"), image("b_source")
    # OpenCV's CIELAB of float32 images, L from 0 to 100; it reads its curves from coarse tables.
    want = [cv2.cvtColor(x, cv2.COLOR_RGB2Lab) for x in (target, source)]
    np.testing.assert_allclose(100 * to_lab(target), want[0], atol=0.4)
    # Red, green and blue of sRGB, as they are published to two digits.
    primaries = [[53.24, 80.09, 67.20], [87.73, -86.18, 83.18], [32.30, 79.19, -107.86]]
    np.testing.assert_allclose(100 * to_lab(np.eye(3, dtype=np.float32)), primaries, atol=0.02)
    np.testing.assert_allclose(from_lab(to_lab(target)), target, atol=1e-5)
    mean, deviation = (
        [getattr(np, name)(x.reshape(-1, 3), axis=0) for x in want] for name in ("mean", "std")
    )
    matched = (want[0] - mean[0]) / deviation[0] * deviation[1] + mean[1]
    got = np.asarray(to_lab(color_fix(target, source, "lab"))) * 100
    inside = (np.asarray(color_fix(target, source, "lab")) > 0.01).all(axis=-1)
    inside &= (np.asarray(color_fix(target, source, "lab")) < 0.99).all(axis=-1)
    assert inside.mean() > 0.3
    np.testing.assert_allclose(got[inside], matched[inside], atol=1)


def test_none_changes_nothing_and_others_are_refused():
    target, source = image("c_target"), image("c_source")
    assert color_fix(target, source, "none") is target
    with pytest.raises(ValueError, match="sepia"):
        color_fix(target, source, "sepia")
