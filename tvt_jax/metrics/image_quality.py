"""Image quality against a reference.

PSNR and SSIM run on the host in float64, so their figures depend on no accelerator.
"""

import cv2
import jax.numpy as jnp
import numpy as np

from tvt_jax.metrics.network_call import call_network
from tvt_jax.models.networks import Network

_SSIM_WINDOW = 11  # px
_SSIM_SIGMA = 1.5  # px
_SSIM_C1, _SSIM_C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def psnr(image: np.ndarray, reference: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB, over all pixels and channels; infinite for equal images.

    Args:
      image, reference: arrays of the same shape in [0, 255].
    """
    error = np.mean((image.astype(np.float64) - reference.astype(np.float64)) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def ssim(image: np.ndarray, reference: np.ndarray) -> float:
    """Structural similarity, the mean over windows and channels.

    Gaussian windows of 11x11 px and sigma 1.5, only those that lie inside of the image.

    Args:
      image, reference: [H, W] or [H, W, C] in [0, 255], at least 11 px a side.

    Raises:
      ValueError: the images are smaller.
    Source: Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity".
    """
    if min(image.shape[:2]) < _SSIM_WINDOW:
        raise ValueError(f"SSIM needs {_SSIM_WINDOW} px a side, not {image.shape[:2]}")
    a, b = image.astype(np.float64), reference.astype(np.float64)
    kernel = cv2.getGaussianKernel(_SSIM_WINDOW, _SSIM_SIGMA, cv2.CV_64F)
    inside = slice(_SSIM_WINDOW // 2, -(_SSIM_WINDOW // 2))

    def mean(values):
        return cv2.sepFilter2D(values, cv2.CV_64F, kernel, kernel)[inside, inside]

    mean_a, mean_b = mean(a), mean(b)
    variance_a, variance_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    similarity = (2 * mean_a * mean_b + _SSIM_C1) * (2 * covariance + _SSIM_C2)
    similarity /= (mean_a**2 + mean_b**2 + _SSIM_C1) * (variance_a + variance_b + _SSIM_C2)
    return float(similarity.mean())


def luma(image: np.ndarray) -> np.ndarray:
    """Y of YCbCr by ITU-R BT.601, [H, W, 3] RGB in [0, 255] to [H, W] float64 in [16, 235].

    Not rounded, as in BasicSR.
    """
    return image.astype(np.float64) @ (np.array([65.481, 128.553, 24.966]) / 255) + 16


def cut_border(image: np.ndarray, pixels: int) -> np.ndarray:
    """Leaves out `pixels` on each side of [H, W, ...]."""
    return image[pixels:-pixels, pixels:-pixels] if pixels else image


def lpips(network: Network, images: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Perceptual distances; a program is compiled for each shape.

    Args:
      network: of `load_lpips`.
      images, references: [B, H, W, 3] uint8.

    Returns: [B] float32.
    Raises:
      UserError: memory does not suffice.
    """
    return np.asarray(call_network(_lpips, network, images, references))


def _lpips(module, images, references):
    return module(*(x.astype(jnp.float32) / 127.5 - 1.0 for x in (images, references)))
