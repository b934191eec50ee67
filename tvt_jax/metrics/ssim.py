"""Structural similarity, on one scale and on five; on the host in float64."""

import cv2
import numpy as np

_WINDOW = 11  # px
_SIGMA = 1.5  # px
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
# Of the five scales, from the finest; by the experiments of the paper of MS-SSIM.
_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
MS_SSIM_MIN_SIDE = (_WINDOW - 1) * 2 ** (len(_SCALE_WEIGHTS) - 1) + 1  # px


def ssim(image: np.ndarray, reference: np.ndarray, clip_contrast: bool = False) -> float:
    """Structural similarity, the mean over windows and channels; higher is better.

    Gaussian windows of 11x11 px and sigma 1.5, only those that lie inside of the image.

    Args:
      image, reference: [H, W] or [H, W, C] in [0, 255], at least 11 px a side.
      clip_contrast: count a window whose contrast term is negative as 0.

    Raises:
      ValueError: the images are smaller.
    Source: Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity".
    """
    return _ssim_and_contrast(image, reference, clip_contrast)[0]


def ms_ssim(image: np.ndarray, reference: np.ndarray) -> float:
    """Multi-scale SSIM: contrast of five scales, luminance of the coarsest; higher is better.

    Negative contrast terms count as 0. Between scales: means of 2x2 px, with a line of zeros before
    an odd side, as in the packages pytorch-msssim and pyiqa.

    Args:
      image, reference: [H, W] in [0, 255], at least `MS_SSIM_MIN_SIDE` px a side.

    Raises:
      ValueError: the images are smaller.
    Source: Wang et al., "Multiscale Structural Similarity for Image Quality Assessment".
    """
    a, b = (x.astype(np.float64) for x in (image, reference))
    product = 1.0
    for scale, weight in enumerate(_SCALE_WEIGHTS):
        similarity, contrast = _ssim_and_contrast(a, b, clip_contrast=True)
        last = scale == len(_SCALE_WEIGHTS) - 1
        product *= (similarity if last else contrast) ** weight
        a, b = _halved(a), _halved(b)
    return float(product)


def _ssim_and_contrast(image, reference, clip_contrast: bool) -> tuple[float, float]:
    """Means of SSIM and of its contrast term."""
    if min(image.shape[:2]) < _WINDOW:
        raise ValueError(f"SSIM needs {_WINDOW} px a side, not {image.shape[:2]}")
    a, b = image.astype(np.float64), reference.astype(np.float64)
    kernel = cv2.getGaussianKernel(_WINDOW, _SIGMA, cv2.CV_64F)
    inside = slice(_WINDOW // 2, -(_WINDOW // 2))

    def mean(values):
        return cv2.sepFilter2D(values, cv2.CV_64F, kernel, kernel)[inside, inside]

    mean_a, mean_b = mean(a), mean(b)
    variances = mean(a * a) - mean_a**2 + mean(b * b) - mean_b**2
    contrast = (2 * (mean(a * b) - mean_a * mean_b) + _C2) / (variances + _C2)
    if clip_contrast:
        contrast = np.maximum(contrast, 0)
    luminance = (2 * mean_a * mean_b + _C1) / (mean_a**2 + mean_b**2 + _C1)
    return float(np.mean(luminance * contrast)), float(np.mean(contrast))


def _halved(image):
    """Means of 2x2 px; an odd side gets a line of zeros before it."""
    image = np.pad(image, [(side % 2, 0) for side in image.shape])
    height, width = (side // 2 for side in image.shape)
    return image.reshape(height, 2, width, 2).mean(axis=(1, 3))
