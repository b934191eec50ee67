"""Peak signal-to-noise ratio; on the host in float64, so that it depends on no accelerator."""

import numpy as np


def psnr(image: np.ndarray, reference: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB, over all pixels and channels; infinite for equal images.

    Args:
      image, reference: arrays of the same shape in [0, 255].
    """
    error = np.mean((image.astype(np.float64) - reference.astype(np.float64)) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else float("inf")
