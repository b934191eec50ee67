"""Blur kernels: Gaussian, generalized Gaussian and plateau; and the sinc low-pass."""

import numpy as np
from scipy.special import j1

# The kinds, as BasicSR spells them. Isotropic ones have one sigma and no angle.
KINDS = ("iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso")
# The values of a kernel over the squared distance q in units of the standard deviation.
_PROFILES = {
    "generalized": lambda q, beta: np.exp(-0.5 * q**beta),
    "plateau": lambda q, beta: 1 / (1 + q**beta),
}


def blur_kernel(
    kind: str, size: int, sigma_x: float, sigma_y: float, theta: float, beta: float
) -> np.ndarray:
    """A kernel whose level lines are ellipses.

    Args:
      kind: one of `KINDS`.
      size: pixels along each side, odd.
      sigma_x, sigma_y: half axes of the ellipse, px.
      theta: angle of the first axis from the x axis towards positive y, radians.
      beta: exponent of the generalized and the plateau kinds; the Gaussian ones do not use it.

    Returns: [size, size] float64 that sums to 1.
    Source: BasicSR `bivariate_Gaussian`, `bivariate_generalized_Gaussian`, `bivariate_plateau`.
    """
    offsets = np.arange(size) - size // 2
    x, y = offsets[None, :], offsets[:, None]
    along = (np.cos(theta) * x + np.sin(theta) * y) / sigma_x
    across = (np.cos(theta) * y - np.sin(theta) * x) / sigma_y
    q = along**2 + across**2
    family = kind.split("_")[0]
    kernel = _PROFILES[family](q, beta) if family in _PROFILES else np.exp(-0.5 * q)
    return kernel / kernel.sum()


def sinc_kernel(size: int, cutoff: float) -> np.ndarray:
    """The ideal circular low-pass, cut to a square: it rings at edges, as over-sharpening does.

    Args:
      size: pixels along each side, odd.
      cutoff: radians per pixel, up to pi. Even pi is not the identity.

    Returns: [size, size] float64 that sums to 1, with negative values.
    Source: BasicSR `circular_lowpass_kernel`.
    """
    offsets = np.arange(size) - size // 2
    radius = np.hypot(offsets[None, :], offsets[:, None])
    radius[size // 2, size // 2] = 1  # the value there is set below
    kernel = cutoff * j1(cutoff * radius) / (2 * np.pi * radius)
    kernel[size // 2, size // 2] = cutoff**2 / (4 * np.pi)
    return kernel / kernel.sum()
