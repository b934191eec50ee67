"""Natural image quality evaluator, without a reference; on the host in float64."""

from typing import NamedTuple

import cv2
import numpy as np
from scipy.special import gamma

from tvt_jax.metrics.color import yiq

_BLOCK = 96  # px; half as much on the second scale
MIN_SIDE = 2 * _BLOCK  # px; the covariance needs several blocks
_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))
_SHAPES = np.arange(0.2, 10.001, 0.001)
_RATIOS = gamma(2 / _SHAPES) ** 2 / (gamma(1 / _SHAPES) * gamma(3 / _SHAPES))


class PristineModel(NamedTuple):
    """Mean [36] and covariance [36, 36] of the features of undistorted photographs."""

    mean: np.ndarray
    covariance: np.ndarray


def niqe(image: np.ndarray, model: PristineModel) -> float:
    """Distance of an image's statistics to those of undistorted photographs; lower is better.

    Luma of YIQ, rounded. Blocks of 96 px; what is left over at the end is cut.

    Args:
      image: [H, W, 3] in [0, 255], at least `MIN_SIDE` px a side.
      model: of the same 36 features.

    Returns: the distance; NaN where nearly all blocks are flat.
    Raises:
      ValueError: the image is smaller.
    Source: Mittal et al., "Making a 'Completely Blind' Image Quality Analyzer".
    """
    if min(image.shape[:2]) < MIN_SIDE:
        raise ValueError(f"NIQE needs {MIN_SIDE} px a side, not {image.shape[:2]}")
    y = np.round(yiq(image)[..., 0])
    height, width = (side // _BLOCK * _BLOCK for side in y.shape)
    y = y[:height, :width]
    with np.errstate(divide="ignore", invalid="ignore"):
        features = np.concatenate(
            [_features(_normalized(y), _BLOCK), _features(_normalized(_halved(y)), _BLOCK // 2)],
            axis=1,
        )
    complete = features[np.isfinite(features).all(axis=1)]
    if len(complete) < 2:
        return float("nan")
    covariance = np.cov(complete, rowvar=False)
    difference = model.mean - np.nanmean(features, axis=0)
    inverse = np.linalg.pinv((model.covariance + covariance) / 2)
    return float(np.sqrt(difference @ inverse @ difference))


def _normalized(y):
    """Divides what differs from the local mean by the local deviation."""
    kernel = cv2.getGaussianKernel(7, 7 / 6, cv2.CV_64F)

    def local(values):
        return cv2.sepFilter2D(values, cv2.CV_64F, kernel, kernel, borderType=cv2.BORDER_REPLICATE)

    mean = local(y)
    deviation = np.sqrt(np.abs(local(y * y) - mean**2))
    return (y - mean) / (deviation + 1)


def _features(values, block):
    """18 features of each block: [blocks, 18]."""
    rows = []
    for top in range(0, values.shape[0], block):
        for left in range(0, values.shape[1], block):
            part = values[top : top + block, left : left + block]
            shape, low, high = _fit(part)
            row = [shape, (low + high) / 2]
            for shift in _SHIFTS:
                shape, low, high = _fit(part * np.roll(part, shift, axis=(0, 1)))
                mean = (high - low) * gamma(2 / shape) / gamma(1 / shape)
                row += [shape, mean, low, high]
            rows.append(row)
    return np.array(rows)


def _fit(values):
    """Asymmetric generalized Gaussian by moments: (shape, scale on the left, on the right)."""
    values = values.ravel()
    left = np.sqrt(np.mean(values[values < 0] ** 2)) if (values < 0).any() else np.nan
    right = np.sqrt(np.mean(values[values > 0] ** 2)) if (values > 0).any() else np.nan
    balance = left / right
    ratio = np.mean(np.abs(values)) ** 2 / np.mean(values**2)
    ratio *= (balance**3 + 1) * (balance + 1) / (balance**2 + 1) ** 2
    if not np.isfinite(ratio):
        return np.nan, np.nan, np.nan
    shape = _SHAPES[np.argmin((_RATIOS - ratio) ** 2)]
    scale = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
    return shape, left * scale, right * scale


def _halved(image):
    """Bicubic reduction to half (a = -0.5, antialiased, mirrored edges), as MATLAB's imresize."""
    x = np.abs(np.arange(8) - 3.5) / 2
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    kernel = np.where(x < 1, near, far) / 2
    for axis in (0, 1):
        padded = np.pad(image, [(3, 3) if a == axis else (0, 0) for a in (0, 1)], mode="symmetric")
        windows = np.lib.stride_tricks.sliding_window_view(padded, 8, axis=axis)
        image = np.take(windows, range(0, windows.shape[axis], 2), axis=axis) @ kernel
    return image
