"""Noise: moments, exact distributions and the statistics of BasicSR's own noise."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tvt_jax.data.degradation.noise import (
    _alias_table,
    add_noise,
    gaussian_noise,
    poisson_noise,
    standard_normal,
)

GOLDEN = json.loads(
    str(
        np.load(Path(__file__).parent.parent / "golden" / "degradation_kernels.npz")[
            "noise_stats_json"
        ]
    )
)


def test_normal_numbers_are_normal():
    sample = standard_normal(3, (1_000_001,))
    assert sample.shape == (1_000_001,)
    assert stats.kstest(sample, "norm").pvalue > 1e-3
    assert sample.mean() == pytest.approx(0, abs=4e-3)
    assert sample.std() == pytest.approx(1, abs=3e-3)  # four standard errors
    assert stats.skew(sample) == pytest.approx(0, abs=0.01)
    assert stats.kurtosis(sample) == pytest.approx(0, abs=0.02)
    beyond = np.count_nonzero(np.abs(sample) > 4)
    expected = len(sample) * 2 * stats.norm.sf(4)
    assert abs(beyond - expected) < 4 * np.sqrt(expected)


def test_normal_numbers_do_not_depend_on_each_other():
    sample = standard_normal(4, (1000, 500, 2))
    error = 4 / np.sqrt(sample.size / 2)
    for a, b in [
        (sample[..., 0], sample[..., 1]),
        (sample[1:], sample[:-1]),
        (sample[:, 1:], sample[:, :-1]),
        (sample[:500], sample[500:]),  # the two results of one pair of the formula
        (sample[:500] ** 2, sample[500:] ** 2),
    ]:
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < error


@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("sigma", [1, 10, 30])
def test_gaussian_statistics_equal_the_reference(sigma, gray):
    noise = gaussian_noise(400, 600, sigma, gray, seed=5)
    mean, std, correlation, theory = GOLDEN[f"gauss_sigma{sigma}_gray{int(gray)}"]
    assert noise.dtype == np.float32
    assert noise.mean() == pytest.approx(mean, abs=0.01 * theory)
    assert noise.std() == pytest.approx(theory, rel=5e-3)
    assert noise.std() == pytest.approx(std, rel=0.02)
    shown = add_noise(np.full((400, 600, 3), 0.5, np.float32), noise) - 0.5
    got = np.corrcoef(shown[..., 0].ravel(), shown[..., 1].ravel())[0, 1]
    assert got == pytest.approx(correlation, abs=0.01)


def image_with_levels(count, level):
    """`count` different levels, half of all pixels of one of them. Returns it and their mask."""
    levels = np.unique(np.append(np.linspace(0, 255, count).astype(int), level))
    wrong = len(levels) - count
    levels = np.setdiff1d(levels, [v for v in levels if v not in (0, level)][:wrong])
    image = np.resize(levels, (600, 800))
    image[::2] = level
    mask = image == level
    return (image.astype(np.float32) / 255)[..., None].repeat(3, axis=2), mask


@pytest.mark.parametrize("name", [name for name in GOLDEN if name.startswith("poisson")])
def test_poisson_statistics_equal_the_reference(name):
    _, count, scale, colour = name.split("_")
    scale, gray = float(scale.removeprefix("scale")), colour == "gray"
    mean, std, level, peak, theory, *_ = GOLDEN[name]
    image, mask = image_with_levels(int(count.removeprefix("n")), int(level))
    noise = poisson_noise(image, scale, gray, seed=9)
    assert noise.shape == (600, 800, 1 if gray else 3)
    sample = noise[mask]
    assert sample.mean() == pytest.approx(0, abs=4 * theory / np.sqrt(sample.size))
    assert sample.std() == pytest.approx(std, rel=0.02)
    assert sample.std() == pytest.approx(scale * np.sqrt(level / 255 / peak), rel=0.01)
    if not gray:
        correlation = np.corrcoef(noise[..., 0][mask], noise[..., 1][mask])[0, 1]
        assert abs(correlation) < 0.015


@pytest.mark.parametrize("peak", [1, 2, 16, 128, 256])
def test_poisson_tables_hold_the_exact_distribution(peak):
    least, table = _alias_table(peak)
    table = table.reshape(256, 256)
    keep, alias = (table >> 8) / 2**24, table & 255
    for level in range(256):
        implied = keep[level].copy()
        np.add.at(implied, alias[level], 1 - keep[level])
        expected = stats.poisson.pmf(least[level] + np.arange(256), peak * level / 255)
        assert np.abs(implied / 256 - expected).sum() / 2 < 1e-7, level


def test_poisson_counts_follow_the_distribution():
    image = np.random.default_rng(0).integers(0, 256, (512, 512, 3)).astype(np.float32) / 255
    image[:256] = 40 / 255
    noise = poisson_noise(image, 1.0, False, seed=11)[:256]
    counts = np.rint((noise + 40 / 255) * 256).astype(int).ravel()
    rate = 256 * 40 / 255
    values = np.arange(20, 62)
    seen = [np.count_nonzero(counts < 20), *np.bincount(counts, minlength=62)[20:62]]
    seen.append(len(counts) - sum(seen))
    expected = [stats.poisson.cdf(19, rate), *stats.poisson.pmf(values, rate)]
    expected.append(1 - sum(expected))
    assert stats.chisquare(seen, np.array(expected) * len(counts)).pvalue > 1e-3


def test_poisson_knows_the_photons_by_the_levels_of_the_whole_image():
    # One level: V = 1, so the counts are whole numbers of 1.
    image = np.full((64, 64, 3), 0.5, np.float32)
    noise = poisson_noise(image, 1.0, False, seed=1) + 128 / 255
    np.testing.assert_allclose(noise, np.rint(noise), atol=1e-6)
    assert set(np.unique(np.rint(noise))) >= {0, 1, 2}
    # A second level anywhere doubles them; grey noise counts levels of the luma.
    image[0, 0, 2] = 0
    noise = 2 * (poisson_noise(image, 1.0, False, seed=1)[1:] + 128 / 255)
    np.testing.assert_allclose(noise, np.rint(noise), atol=1e-5)
    assert np.any(np.rint(noise) % 2)


def test_black_stays_black_and_values_beyond_the_range_count_as_its_ends():
    image = np.random.default_rng(0).random((64, 64, 3), dtype=np.float32)
    image[:32] = 0
    image[0] = -0.2
    noise = poisson_noise(image, 2.0, False, seed=3)
    assert np.all(noise[:32] == 0)
    assert np.all(add_noise(image, noise)[:32] == 0)


def test_grey_noise_uses_the_luma():
    image = np.zeros((400, 300, 3), np.float32)
    for channel in range(3):
        image[100 * channel : 100 * (channel + 1), :, channel] = 1
    noise = poisson_noise(image, 1.0, True, seed=3)  # four levels with the black rows
    assert np.all(noise[300:] == 0)
    for channel, weight in enumerate((0.2989, 0.587, 0.114)):
        part = noise[100 * channel : 100 * (channel + 1)]
        assert part.std() == pytest.approx(np.sqrt(np.rint(255 * weight) / 255 / 4), rel=0.02)


def test_the_seed_decides():
    image = np.random.default_rng(0).random((33, 35, 3), dtype=np.float32)
    for make in (
        lambda seed: gaussian_noise(33, 35, 10, False, seed),
        lambda seed: poisson_noise(image, 1, False, seed),
        lambda seed: poisson_noise(image, 1, True, seed),
    ):
        np.testing.assert_array_equal(make(7), make(7))
        assert np.any(make(7) != make(8))


def test_the_sum_is_clipped():
    image = np.full((20, 20, 3), 0.9, np.float32)
    got = add_noise(image, gaussian_noise(20, 20, 100, True, seed=1))
    assert got.min() >= 0 and got.max() == 1
    np.testing.assert_array_equal(got[..., 0], got[..., 2])
