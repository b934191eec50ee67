"""Enlargement by 4, against Pillow."""

import jax
import numpy as np
import pytest
from PIL import Image

from tvt_jax.export.enlargement import enlarge


@pytest.mark.parametrize(
    ("height", "width"),
    [(1, 1), (2, 3), (3, 2), (4, 5), (5, 8), (6, 1), (7, 6), (8, 7), (1, 9), (33, 17)],
)
def test_equals_pillow_bit_for_bit(height, width):
    # Noise from black to white: sums leave 0 to 255, and rounding is tried everywhere.
    images = np.random.default_rng(0).choice(
        np.array([0, 1, 100, 200, 254, 255], np.uint8), (2, height, width, 3)
    )
    want = [
        np.asarray(Image.fromarray(i).resize((4 * width, 4 * height), Image.Resampling.BICUBIC))
        for i in images
    ]
    np.testing.assert_array_equal(jax.jit(enlarge)(images), np.stack(want))
