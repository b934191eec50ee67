"""Blur kernels: bells of three families, and the sinc low-pass."""

import numpy as np
from scipy.special import j1

# The name of each kind of bell, as the public settings spell it, and its profile over the squared
# distance q in units of the standard deviation. Isotropic kinds have one sigma and no angle.
_PROFILES = {
    "gaussian": lambda q, beta: np.exp(-0.5 * q),
    "generalized": lambda q, beta: np.exp(-0.5 * q**beta),
    "plateau": lambda q, beta: 1 / (1 + q**beta),
}
BELLS = {
    "iso": _PROFILES["gaussian"],
    "aniso": _PROFILES["gaussian"],
    "generalized_iso": _PROFILES["generalized"],
    "generalized_aniso": _PROFILES["generalized"],
    "plateau_iso": _PROFILES["plateau"],
    "plateau_aniso": _PROFILES["plateau"],
}


def bell_kernel(
    kind: str, size: int, sigma_x: float, sigma_y: float, theta: float, beta: float
) -> np.ndarray:
    """A bell over an ellipse.

    Args:
      kind: one of `BELLS`.
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
    kernel = BELLS[kind](along**2 + across**2, beta)
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
