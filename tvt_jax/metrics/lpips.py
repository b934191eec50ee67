"""LPIPS of 8-bit images."""

import jax.numpy as jnp
import numpy as np

from tvt_jax.metrics.compiled import call_compiled
from tvt_jax.models.networks import Network


def lpips(network: Network, images: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Perceptual distances; a program is compiled for each shape.

    Args:
      network: of `load_lpips`.
      images, references: [B, H, W, 3] uint8.

    Returns: [B] float32.
    Raises:
      UserError: memory does not suffice.
    """
    return np.asarray(call_compiled(_lpips, network, images, references))


def _lpips(module, images, references):
    return module(*(x.astype(jnp.float32) / 127.5 - 1.0 for x in (images, references)))
