"""Gaussian and Poisson noise, in colour or grey, from a seed."""

import functools

import cv2
import numpy as np
from scipy.special import gammaln, xlogy

_LUMA = np.array([[0.2989, 0.587, 0.114]], np.float32)


def gaussian_noise(height: int, width: int, sigma: float, gray: bool, seed: int) -> np.ndarray:
    """Normal noise.

    Args:
      height, width: of the image that it is for.
      sigma: standard deviation in levels of 0 to 255.
      gray: one value for the three channels of a pixel instead of three.
      seed: of the noise.

    Returns: [height, width, 1 (gray) or 3] float32, in units of 1.
    Source: BasicSR `random_generate_gaussian_noise_pt`.
    """
    noise = standard_normal(seed, (height, width, 1 if gray else 3))
    noise *= np.float32(sigma / 255)
    return noise


def poisson_noise(image: np.ndarray, scale: float, gray: bool, seed: int) -> np.ndarray:
    """The deviation of photon counts from their mean.

    A pixel of value J, rounded to 8 bits, expects V J photons; V is the number of different levels
    in the image, rounded up to a power of two. The standard deviation is scale * sqrt(J / V).

    Args:
      image: [H, W, 3] float32.
      scale: factor on the noise.
      gray: one value for the three channels of a pixel, from its luma, instead of three.
      seed: of the noise.

    Returns: [H, W, 1 (gray) or 3] float32.
    Source: BasicSR `random_generate_poisson_noise_pt`.
    """
    height, width = image.shape[:2]
    source = cv2.transform(image, _LUMA) if gray else np.ascontiguousarray(image)
    source = source.reshape(height, -1)
    levels = cv2.addWeighted(source, 255, source, 0, 0, dtype=cv2.CV_8U)  # rounds and clips
    different = int(np.count_nonzero(cv2.calcHist([levels], [0], None, [256], [0, 256])))
    peak = 1 << (different - 1).bit_length()
    least, counts = _poisson_counts(levels, peak, seed)
    # scale * ((least + counts) / peak - level / 255)
    offset = scale * (least / peak - np.arange(256) / 255)
    noise = np.multiply(counts, np.float32(scale / peak), dtype=np.float32)
    noise += cv2.LUT(levels, offset.astype(np.float32))
    return noise.reshape(height, width, -1)


def add_noise(image: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """The sum within [0, 1].

    Args:
      image: [H, W, 3] float32.
      noise: [H, W, 1 or 3] float32; it may be overwritten.

    Returns: [H, W, 3] float32.
    """
    if noise.shape[2] == 1:
        noise = cv2.merge([noise] * 3)
    cv2.add(image, noise, dst=noise)
    return np.clip(noise, 0, 1, out=noise)


def standard_normal(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Normal numbers by the Box-Muller transform, four times faster than `Generator`'s.

    Returns: float32 of any shape; truncated at 6.8 (probability 1e-11).
    """
    count = int(np.prod(shape))
    pairs = -(-count // 2)
    bits = _random_bits(seed, 2 * pairs).reshape(2, 1, pairs)
    radius = np.multiply(bits[0], np.float32(2**-32), dtype=np.float32)
    radius += np.float32(2**-33)  # avoids log(0)
    cv2.log(radius, dst=radius)
    radius *= -2
    cv2.sqrt(radius, dst=radius)
    angle = np.multiply(bits[1], np.float32(2 * np.pi / 2**32), dtype=np.float32)
    normal = np.empty((2, 1, pairs), np.float32)
    cv2.polarToCart(radius, angle, x=normal[0], y=normal[1])
    return normal.reshape(-1)[:count].reshape(shape)


def _random_bits(seed: int, count: int) -> np.ndarray:
    """`count` (even) random uint32."""
    return np.random.SFC64(seed).random_raw(count // 2).view(np.uint32)


# --------------------------------------------------------------------------------------------------
# Poisson numbers by the alias method
# --------------------------------------------------------------------------------------------------
# There are only 256 rates, so each has a table from which a number is drawn in constant time: 8 of
# 32 random bits choose one of 256 candidates, the other 24 decide between it and its alias. This
# is some fifteen times quicker than `Generator.poisson`, and the distribution is exact to 1e-7.
# Source: A. J. Walker, An efficient method for generating discrete random variables with general
#   distributions, 1977.


def _poisson_counts(levels: np.ndarray, peak: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Poisson numbers of the rates peak * levels / 255.

    Args:
      levels: [H, N] uint8.
      peak: a power of two up to 256.

    Returns: (least [256], counts [H, N] uint8); the numbers are least[levels] + counts.
    """
    least, table = _alias_table(peak)
    count = levels.size
    bits = _random_bits(seed, count + count % 2)[:count].reshape(levels.shape)
    candidate = bits.astype(np.uint8)
    place = np.left_shift(levels, 8, dtype=np.uint16)
    place |= candidate
    entry = np.take(table, place)
    refused = np.greater_equal(bits, entry).view(np.uint8)
    return least, cv2.copyTo(entry.astype(np.uint8), refused, candidate)


@functools.cache
def _alias_table(peak: int) -> tuple[np.ndarray, np.ndarray]:
    """The tables of the 256 rates peak * level / 255.

    Returns: (least [256] int: the number that candidate 0 of each rate stands for,
      table [65536] uint32: for rate and candidate, the probability of keeping the candidate in
      units of 2^-24 in the upper 24 bits and the alias in the lower 8).
    """
    rate = peak * np.arange(256) / 255
    # At the greatest rate, 256, this reaches 8 standard deviations to either side.
    least = np.maximum(np.rint(rate).astype(int) - 128, 0)
    number = least[:, None] + np.arange(256)
    logarithm = xlogy(number, rate[:, None]) - rate[:, None] - gammaln(number + 1)
    # The share of each candidate, 1 on average; from those above 1 the ones below are filled up.
    share = np.exp(logarithm)
    share *= 256 / share.sum(1, keepdims=True)
    keep, alias = np.ones((256, 256)), np.tile(np.arange(256), (256, 1))
    rows = np.arange(256)
    for _ in range(255):
        poor, rich = share.argmin(1), share.argmax(1)
        lack = 1 - share[rows, poor]
        open_rows = lack > 1e-12  # the others are done
        r, p = rows[open_rows], poor[open_rows]
        keep[r, p] = share[r, p]
        alias[r, p] = rich[open_rows]
        share[r, rich[open_rows]] -= lack[open_rows]
        share[r, p] = 1
    kept = np.minimum(np.rint(keep * 2**24), 2**24 - 1).astype(np.uint32)
    return least, (kept << 8 | alias.astype(np.uint32)).reshape(-1)
