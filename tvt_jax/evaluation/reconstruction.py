"""What a VAE keeps of an image."""

import jax.numpy as jnp
import numpy as np

from tvt_jax import restoration
from tvt_jax.errors import UserError
from tvt_jax.inference.sizing import pad
from tvt_jax.metrics.compiled import call_compiled
from tvt_jax.models.networks import Network


def reconstruct(vae: Network, images: np.ndarray) -> np.ndarray:
    """Encodes images to the posterior's mean and decodes it; a program is compiled for each shape.

    Args:
      vae: a VAE with its weights.
      images: [B, H, W, 3] uint8 of any size; padded to a multiple of the VAE's downsampling, and
        the result is cut again.

    Returns: [B, H, W, 3] uint8.
    Raises:
      UserError: memory does not suffice, or the output is not finite.
    """
    height, width = images.shape[1:3]
    padded = np.stack([pad(image, vae.config.downsampling) for image in images])
    output, finite = call_compiled(_reconstruct, vae, padded)
    if not finite:
        raise UserError("the VAE's output is not finite; its weights are damaged.")
    return np.asarray(output)[:, :height, :width]


def _reconstruct(module, images):
    output = restoration.reconstruct(module, images.astype(jnp.float32) / 127.5 - 1.0)
    image = jnp.clip(jnp.round((output + 1.0) * 127.5), 0, 255).astype(jnp.uint8)
    return image, jnp.isfinite(output).all()
