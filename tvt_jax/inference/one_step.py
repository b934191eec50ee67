"""The step of the method between the values of an image file and values in [0, 1].

Whole images and tiles are restored by it.
"""

from collections.abc import Callable

import jax.numpy as jnp

from tvt_jax.parallel import split_rows
from tvt_jax.restoration import restore

NOT_FINITE = "the network's output is not finite and is not written; the weights are damaged."

Report = Callable[[str], None]  # takes a line for the user


def restore_values(vae, unet, images, context, *, scaling_factor, alpha_bar, noise=None):
    """Encodes, denoises once, decodes; each device of the mesh of `jax.set_mesh` some rows.

    Args:
      vae, unet: modules, as of `restoration.restore`.
      images: [B, H, W, 3] uint8 or uint16, padded to what the networks reduce them by.
      context: [B, N, C], the embedding of the prompt.
      scaling_factor, alpha_bar: as of `restoration.restore`.
      noise: [B, h, w, c] float32, for a sample of the encoder's posterior; None for its mean.

    Returns: (images [B, H, W, 3] float32 in [0, 1], whether the networks' output is finite).
    """
    values = images.astype(jnp.float32) / (jnp.iinfo(images.dtype).max / 2) - 1.0
    restored, _ = restore(
        vae, unet, split_rows(values), context,
        scaling_factor=scaling_factor,
        alpha_bar=alpha_bar,
        noise=None if noise is None else lambda shape: noise,
    )  # fmt: skip
    # Clamped before the colour fix, as in the release.
    return jnp.clip(restored, -1.0, 1.0) * 0.5 + 0.5, jnp.isfinite(restored).all()
