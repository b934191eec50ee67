"""What a VAE keeps of an image."""

import jax
import jax.numpy as jnp
import numpy as np

from tvt_jax.weights.model_folder import Network


def reconstruct(vae: Network, image: np.ndarray) -> np.ndarray:
    """Encodes an image to the posterior's mean and decodes it.

    Args:
      vae: a VAE with its weights.
      image: [H, W, 3] uint8, sides multiples of the VAE's downsampling.

    Returns: [H, W, 3] uint8.
    """

    @jax.jit
    def run(params, pixels):
        module = vae(params)
        mean, _, skips = module.encode(pixels)
        return module.decode(mean, skips)

    output = run(vae.params, jnp.asarray(image, jnp.float32)[None] / 127.5 - 1.0)[0]
    return np.clip(np.round((np.asarray(output) + 1.0) * 127.5), 0, 255).astype(np.uint8)
