"""Feature similarity from phase congruency and gradients; on the host in float64."""

import functools
from typing import NamedTuple

import cv2
import numpy as np
import scipy.fft

from tvt_jax.metrics.color import yiq

_SCALES = _ORIENTATIONS = 4
_WAVELENGTH = 6.0  # px, of the finest scale; twice as long on each that follows
_BANDWIDTH = 0.55
_ANGULAR_SIGMA = np.pi / (_ORIENTATIONS * 1.2)
_CUTOFF, _SHARPNESS = 0.45, 15
_SCHARR = np.array([[-3.0, 0.0, 3.0], [-10.0, 0.0, 10.0], [-3.0, 0.0, 3.0]]) / 16
_EPS = np.finfo(np.float64).eps


class FSIM(NamedTuple):
    """Similarity in [0, 1], higher is better.

    Attributes:
      grey: of luma alone (FSIM).
      color: with the chroma of YIQ (FSIMc).
    """

    grey: float
    color: float


def fsim(image: np.ndarray, reference: np.ndarray) -> FSIM:
    """Compares features: images are reduced first, so that their shorter side is about 256 px.

    Args:
      image, reference: [H, W, 3] in [0, 255].

    Source: Zhang et al., "FSIM: A Feature Similarity Index for Image Quality Assessment".
    """
    a, b = (_reduced(yiq(x)) for x in (image, reference))
    congruency = [phase_congruency(x[..., 0]) for x in (a, b)]
    similarity = _similarity(*congruency, 0.85)
    similarity *= _similarity(*(_gradient(x[..., 0]) for x in (a, b)), 160.0)
    weights = np.maximum(*congruency)
    i, q = (_similarity(a[..., c], b[..., c], 200.0) for c in (1, 2))
    # A negative product, of opposite colours, has no real power: the reference takes the modulus.
    chroma = np.abs(i * q) ** 0.03
    total = weights.sum()
    return FSIM(
        float((similarity * weights).sum() / total),
        float((similarity * chroma * weights).sum() / total),
    )


def _reduced(image):
    """Means of k x k px, k the shorter side by 256; what is left over at the end is cut."""
    factor = max(1, round(min(image.shape[:2]) / 256))
    height, width = (side // factor for side in image.shape[:2])
    image = image[: height * factor, : width * factor]
    return image.reshape(height, factor, width, factor, -1).mean(axis=(1, 3))


def _similarity(a, b, constant):
    return (2 * a * b + constant) / (a**2 + b**2 + constant)


def _gradient(y):
    return np.hypot(
        *(cv2.filter2D(y, -1, k, borderType=cv2.BORDER_CONSTANT) for k in (_SCHARR, _SCHARR.T))
    )


def phase_congruency(y: np.ndarray) -> np.ndarray:
    """How far the phases of log-Gabor filters agree at each pixel.

    Args:
      y: [H, W] in [0, 255].

    Returns: [H, W] in [0, 1].
    Source: Kovesi, "Image Features from Phase Congruency", with the noise of FSIM's release.
    """
    filters = _log_gabor(*y.shape)
    spectrum = scipy.fft.fft2(y)
    energy = amplitude = 0.0
    for bank in filters:  # of one orientation
        responses = scipy.fft.ifft2(spectrum * bank)
        amplitudes = np.abs(responses)
        mean = responses.sum(axis=0)
        mean /= np.abs(mean) + _EPS
        # Along the mean phase, less what is across it.
        aligned = responses * mean.conj()
        oriented = (aligned.real - np.abs(aligned.imag)).sum(axis=0)
        energy += np.maximum(oriented - _noise_threshold(amplitudes[0], bank), 0)
        amplitude += amplitudes.sum(axis=0)
    return (energy + _EPS) / (amplitude + _EPS)


def _noise_threshold(finest, bank):
    """Energy that noise alone would have, from the finest scale's median amplitude."""
    squares = np.sort(finest**2, axis=None)
    median = squares[(squares.size - 1) // 2]
    noise = -median / np.log(0.5) / np.sum(bank[0] ** 2)
    kernels = scipy.fft.ifft2(bank).real * np.sqrt(finest.size)
    own = np.sum(kernels**2)
    crossed = (np.sum(kernels.sum(axis=0) ** 2) - own) / 2  # of each pair of scales once
    tau = np.sqrt(noise * own + 2 * noise * crossed)
    return (tau * np.sqrt(np.pi / 2) + 2 * tau * np.sqrt(2 - np.pi / 2)) / 1.7


@functools.lru_cache(maxsize=4)
def _log_gabor(height: int, width: int) -> np.ndarray:
    """Filters in the frequency domain, [orientation, scale, H, W], zero frequency first."""
    down, across = (_frequencies(n) for n in (height, width))
    v, u = np.meshgrid(across, down)
    radius, angle = np.hypot(u, v), np.arctan2(-v, u)
    low_pass = 1 / (1 + (radius / _CUTOFF) ** (2 * _SHARPNESS))
    radius[0, 0] = 1
    radial = []
    for scale in range(_SCALES):
        octaves = np.log(radius * _WAVELENGTH * 2**scale) / np.log(_BANDWIDTH)
        radial.append(np.exp(-(octaves**2) / 2) * low_pass)
        radial[-1][0, 0] = 0
    angular = []
    for orientation in range(_ORIENTATIONS):
        turned = angle - orientation * np.pi / _ORIENTATIONS
        distance = np.abs(np.arctan2(np.sin(turned), np.cos(turned)))
        angular.append(np.exp(-(distance**2) / (2 * _ANGULAR_SIGMA**2)))
    return np.array(angular)[:, None] * np.array(radial)[None]


def _frequencies(count: int) -> np.ndarray:
    """In cycles a pixel, zero first; for odd counts from -1/2 to 1/2, as in the release."""
    even = count % 2 == 0
    steps = np.arange(-(count // 2), count - count // 2)
    return scipy.fft.ifftshift(steps / (count if even else count - 1))
