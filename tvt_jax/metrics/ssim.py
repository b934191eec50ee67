"""Structural similarity; on the host in float64, so that it depends on no accelerator."""

import cv2
import numpy as np

_WINDOW = 11  # px
_SIGMA = 1.5  # px
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def ssim(image: np.ndarray, reference: np.ndarray) -> float:
    """Structural similarity, the mean over windows and channels.

    Gaussian windows of 11x11 px and sigma 1.5, only those that lie inside of the image.

    Args:
      image, reference: [H, W] or [H, W, C] in [0, 255], at least 11 px a side.

    Raises:
      ValueError: the images are smaller.
    Source: Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity".
    """
    if min(image.shape[:2]) < _WINDOW:
        raise ValueError(f"SSIM needs {_WINDOW} px a side, not {image.shape[:2]}")
    a, b = image.astype(np.float64), reference.astype(np.float64)
    kernel = cv2.getGaussianKernel(_WINDOW, _SIGMA, cv2.CV_64F)
    inside = slice(_WINDOW // 2, -(_WINDOW // 2))

    def mean(values):
        return cv2.sepFilter2D(values, cv2.CV_64F, kernel, kernel)[inside, inside]

    mean_a, mean_b = mean(a), mean(b)
    variance_a, variance_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    similarity = (2 * mean_a * mean_b + _C1) * (2 * covariance + _C2)
    similarity /= (mean_a**2 + mean_b**2 + _C1) * (variance_a + variance_b + _C2)
    return float(similarity.mean())
