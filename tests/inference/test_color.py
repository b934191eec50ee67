"""Colour fixes against reference arrays of the original implementation."""

from pathlib import Path

import numpy as np
import pytest

from tvt_jax.inference.color import color_fix, low_frequencies

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
    for method in ("adain", "wavelet"):
        got = np.asarray(color_fix(shifted, source, method))
        assert np.abs(got.mean((0, 1)) - source.mean((0, 1))).max() < 1 / 255


def test_none_changes_nothing_and_others_are_refused():
    target, source = image("c_target"), image("c_source")
    assert color_fix(target, source, "none") is target
    with pytest.raises(ValueError, match="sepia"):
        color_fix(target, source, "sepia")
