"""Gradient magnitude similarity deviation; on the host in float64."""

import cv2
import numpy as np

from tvt_jax.metrics.color import yiq

_PREWITT = np.array([[1.0, 0.0, -1.0]] * 3) / 3
_C = 170.0  # of gradients in [0, 255]


def gmsd(image: np.ndarray, reference: np.ndarray) -> float:
    """How unevenly gradients differ: 0 for equal images, lower is better.

    Luma of YIQ, not rounded; means of 2x2 px; zeros behind odd sides, and around the image where
    gradients are taken.

    Args:
      image, reference: [H, W, 3] in [0, 255].

    Source: Xue et al., "Gradient Magnitude Similarity Deviation".
    """
    a, b = (_gradient(x) for x in (image, reference))
    return float(np.std((2 * a * b + _C) / (a**2 + b**2 + _C)))


def _gradient(image):
    y = yiq(image)[..., 0]
    y = np.pad(y, [(0, side % 2) for side in y.shape])
    y = y.reshape(y.shape[0] // 2, 2, y.shape[1] // 2, 2).mean(axis=(1, 3))
    return np.hypot(
        *(cv2.filter2D(y, -1, k, borderType=cv2.BORDER_CONSTANT) for k in (_PREWITT, _PREWITT.T))
    )
