"""Deep image structure and texture similarity of 8-bit images.

Source: Ding et al., "Image Quality Assessment: Unifying Structure and Texture Similarity". The
trunk is torchvision's VGG16, the same as LPIPS's, with other pooling.
"""

import jax
import jax.numpy as jnp
import numpy as np

from tvt_jax.metrics.compiled import call_compiled
from tvt_jax.models.lpips import LPIPS, MaxPool2d
from tvt_jax.models.networks import Network

_C = 1e-6
_HANNING = np.outer([1, 2, 1], [1, 2, 1]).astype(np.float32) / 16


def dists(
    network: Network,
    weights: tuple[np.ndarray, np.ndarray],
    images: np.ndarray,
    references: np.ndarray,
) -> np.ndarray:
    """Distances at full resolution; a program is compiled for each shape. Lower is better.

    Args:
      network: of `load_lpips("vgg16")`.
      weights: of the structure (means) and texture (covariances) of each channel: [1475] each,
        three of the image and those of the trunk's five stages.
      images, references: [B, H, W, 3] uint8.

    Returns: [B] float32, 0 for equal images.
    Raises:
      UserError: memory does not suffice.
    """
    alpha, beta = (np.asarray(w, np.float32) for w in weights)
    return np.asarray(call_compiled(_dists, network, images, references, alpha, beta))


def _dists(module: LPIPS, images, references, alpha, beta):
    stages = zip(_features(module, images), _features(module, references), strict=True)
    similarity, first = 0.0, 0
    for x, y in stages:
        channels = slice(first, first := first + x.shape[-1])
        mean_x, mean_y = x.mean(axis=(1, 2)), y.mean(axis=(1, 2))
        dx, dy = x - mean_x[:, None, None], y - mean_y[:, None, None]
        variances = jnp.mean(dx**2, axis=(1, 2)) + jnp.mean(dy**2, axis=(1, 2))
        covariance = jnp.mean(dx * dy, axis=(1, 2))
        structure = (2 * mean_x * mean_y + _C) / (mean_x**2 + mean_y**2 + _C)
        texture = (2 * covariance + _C) / (variances + _C)
        similarity += structure @ alpha[channels] + texture @ beta[channels]
    return 1 - similarity / (alpha.sum() + beta.sum())


def _features(module: LPIPS, images):
    """The image in [0, 1] and the features of the trunk's stages, [B, h, w, C]."""
    x = images.astype(jnp.float32)
    features = [x / 255.0]
    x = module.normalized(x / 127.5 - 1.0)
    for start, end in module.blocks:
        for layer in module.features[start:end]:
            x = _l2_pool(x) if isinstance(layer, MaxPool2d) else layer(x)
        features.append(x)
    return features


def _l2_pool(x):
    """Root of the mean of squares under a Hanning window of 3x3, stride 2."""
    channels = x.shape[-1]
    kernel = jnp.broadcast_to(_HANNING[..., None, None], (3, 3, 1, channels))
    squares = jax.lax.conv_general_dilated(
        x * x,
        kernel,
        (2, 2),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=channels,
    )
    return jnp.sqrt(squares + 1e-12)
