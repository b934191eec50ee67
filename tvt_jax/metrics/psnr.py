"""Peak signal-to-noise ratio; on the host in float64, so that it depends on no accelerator."""

import numpy as np


def psnr(image: np.ndarray, reference: np.ndarray, epsilon: float = 0.0) -> float:
    """Peak signal-to-noise ratio in dB, over all pixels and channels; higher is better.

    Args:
      image, reference: arrays of the same shape in [0, 255].
      epsilon: added to the mean square error of values in [0, 1]. Equal images have infinite PSNR,
        or with it `-10 log10(epsilon)` dB.
    """
    error = np.mean((image.astype(np.float64) - reference.astype(np.float64)) ** 2) / 255**2
    return float(-10 * np.log10(error + epsilon)) if error + epsilon else float("inf")
