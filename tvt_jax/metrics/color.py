"""Colour spaces on which metrics are defined."""

import numpy as np

_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


def luma(image: np.ndarray) -> np.ndarray:
    """Y of YCbCr by ITU-R BT.601, [H, W, 3] RGB in [0, 255] to [H, W] float64 in [16, 235].

    Not rounded, as in BasicSR.
    """
    return image.astype(np.float64) @ (np.array([65.481, 128.553, 24.966]) / 255) + 16


def yiq(image: np.ndarray) -> np.ndarray:
    """YIQ, [H, W, 3] RGB in [0, 255] to [H, W, 3] float64; Y in [0, 255], not rounded."""
    return image.astype(np.float64) @ _YIQ.T
