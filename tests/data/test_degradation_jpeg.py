"""DiffJPEG's arithmetic against an independent one in float64; libjpeg against Pillow."""

import io

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin
from scipy.fft import dctn, idctn

from tvt_jax.data.degradation.jpeg import diffjpeg, libjpeg


def photograph(height, width):
    """Smooth and structured parts, in colour, with values on and between the 8-bit levels."""
    y, x = np.mgrid[:height, :width]
    image = np.stack(
        [
            0.5 + 0.45 * np.sin(0.31 * x + 0.17 * y),
            0.5 + 0.45 * np.cos(0.013 * x * y),
            ((7 * x + 13 * y) % 29) / 28,
        ],
        axis=-1,
    )
    noise = np.random.default_rng(0).normal(0, 0.03, image.shape)
    return np.clip(image + noise, 0, 1).astype(np.float32)


def expected_diffjpeg(image, quality):
    """The same by the letter of the description, from Pillow's copy of the standard's tables."""
    tables = standard_tables()
    luma_table, chroma_table = tables[0].T, tables[1]
    factor = (5000 / quality if quality < 50 else 200 - 2 * quality) / 100
    height, width = image.shape[:2]
    full = np.zeros((-(-height // 16) * 16, -(-width // 16) * 16, 3))
    full[:height, :width] = np.clip(image, 0, 1)
    r, g, b = np.moveaxis(255 * full, -1, 0)
    luma = 0.299 * r + 0.587 * g + 0.114 * b
    cb = -0.168736 * r - 0.331264 * g + 0.5 * b + 128
    cr = 0.5 * r - 0.418688 * g - 0.081312 * b + 128

    def half(plane):
        return plane.reshape(plane.shape[0] // 2, 2, plane.shape[1] // 2, 2).mean((1, 3))

    def blocks(plane, table):
        result = np.empty_like(plane)
        for i in range(0, plane.shape[0], 8):
            for j in range(0, plane.shape[1], 8):
                coefficients = dctn(plane[i : i + 8, j : j + 8] - 128, norm="ortho")
                step = table * factor
                restored = idctn(np.round(coefficients / step) * step, norm="ortho")
                result[i : i + 8, j : j + 8] = restored + 128
        return result

    luma = blocks(luma, luma_table)
    cb = blocks(half(cb), chroma_table).repeat(2, 0).repeat(2, 1) - 128
    cr = blocks(half(cr), chroma_table).repeat(2, 0).repeat(2, 1) - 128
    rgb = [luma + 1.402 * cr, luma - 0.344136 * cb - 0.714136 * cr, luma + 1.772 * cb]
    return (np.clip(np.stack(rgb, -1), 0, 255) / 255)[:height, :width]


def standard_tables():
    """Luma and chroma table of the standard: libjpeg uses them unchanged at quality 50."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG", quality=50)
    tables = Image.open(file).quantization
    return [np.array(tables[index], float).reshape(8, 8) for index in (0, 1)]


def test_the_standard_tables_are_read_right():
    luma, chroma = standard_tables()
    assert luma[0, :3].tolist() == [16, 11, 10] and luma[:3, 0].tolist() == [16, 12, 14]
    assert chroma[0, :4].tolist() == [17, 18, 24, 47]


@pytest.mark.parametrize("quality", [5, 30.4, 49.99, 50, 73.2, 95, 99.9])
@pytest.mark.parametrize("shape", [(64, 96), (75, 90)])
def test_diffjpeg_equals_float64(shape, quality):
    image = photograph(*shape)
    got, expected = diffjpeg(image, quality), expected_diffjpeg(image, quality)
    assert got.dtype == np.float32
    wrong = np.abs(got - expected) > 1e-4  # a fortieth of a level
    # A coefficient halfway between two steps may be rounded otherwise in float32: one block.
    assert wrong.mean() < 2e-3


@pytest.mark.parametrize(("vertical", "horizontal"), [(0, 5), (5, 0), (2, 6), (6, 2)])
def test_the_luma_table_is_transposed(vertical, horizontal):
    """The smallest grey pattern that survives has half the step of the swapped position."""
    y, x = np.mgrid[:16, :16]
    wave = np.cos((2 * (y % 8) + 1) * vertical * np.pi / 16)
    wave *= np.cos((2 * (x % 8) + 1) * horizontal * np.pi / 16)
    wave /= np.linalg.norm(wave[:8, :8])
    step = standard_tables()[0][horizontal, vertical]
    for amplitude, survives in ((0.49 * step, False), (0.51 * step, True)):
        gray = (128 + amplitude * wave) / 255
        image = gray[..., None].repeat(3, -1).astype(np.float32)
        assert (np.ptp(diffjpeg(image, 50)) > 1e-3) == survives


def test_quality_100_is_finite_and_only_subsamples_chroma():
    image = photograph(48, 64)
    got = diffjpeg(image, 100)
    assert np.isfinite(got).all()
    np.testing.assert_array_equal(got, diffjpeg(image, 99.99))
    weights = np.array([0.299, 0.587, 0.114])
    inside = (got > 0) & (got < 1)  # clipping changes the luma
    luma = np.abs(got @ weights - image @ weights)[inside.all(-1)]
    assert luma.max() < 1.5e-3
    gray = image[..., :1].repeat(3, -1)
    np.testing.assert_allclose(diffjpeg(gray, 100), gray, atol=1e-3)


def test_other_sizes_are_filled_up_with_black():
    image = np.full((21, 36, 3), 0.8, np.float32)
    black = np.zeros((32, 48, 3), np.float32)
    black[:21, :36] = image
    got = diffjpeg(image, 40)
    np.testing.assert_array_equal(got, diffjpeg(black, 40)[:21, :36])
    # So a flat image rings in its last rows and columns, and there alone.
    assert np.ptp(got[:16, :32]) < 1e-5
    assert np.ptp(got[16:]) > 0.01 and np.ptp(got[:, 32:]) > 0.01


def test_the_input_is_clipped_and_left_alone():
    image = photograph(32, 32) * 2 - 0.5
    before = image.copy()
    got = diffjpeg(image, 60)
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(got, diffjpeg(np.clip(image, 0, 1), 60))
    assert got.min() >= 0 and got.max() <= 1


@pytest.mark.parametrize("quality", [30.4, 75.6, 95])
@pytest.mark.parametrize("shape", [(64, 96), (75, 90)])
def test_libjpeg_equals_pillow(shape, quality):
    image = photograph(*shape)
    file = io.BytesIO()
    levels = Image.fromarray(np.rint(image * 255).astype(np.uint8))
    levels.save(file, "JPEG", quality=round(quality), subsampling=2)
    with Image.open(file) as written:
        assert JpegImagePlugin.get_sampling(written) == 2
        expected = np.asarray(written).astype(int)
    got = libjpeg(image, quality) * 255
    np.testing.assert_allclose(got, np.rint(got), atol=1e-4)
    assert np.abs(np.rint(got) - expected).max() <= 1
    assert np.abs(np.rint(got) - expected).mean() < 0.01


def test_the_codecs_differ_as_known():
    image = photograph(96, 96)
    own, real = diffjpeg(image, 60), libjpeg(image, 60)
    assert 1e-3 < np.abs(own - real).mean() < 0.1
    # Nearest neighbour restores the chroma worse than libjpeg's interpolation.
    assert np.abs(real - image).mean() < np.abs(own - image).mean()
