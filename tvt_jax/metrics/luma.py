"""The luma on which PSNR and SSIM of images are usually measured."""

import numpy as np


def luma(image: np.ndarray) -> np.ndarray:
    """Y of YCbCr by ITU-R BT.601, [H, W, 3] RGB in [0, 255] to [H, W] float64 in [16, 235].

    Not rounded, as in BasicSR.
    """
    return image.astype(np.float64) @ (np.array([65.481, 128.553, 24.966]) / 255) + 16
