"""The method: one step of diffusion from a degraded image to a restored one.

Pure functions of networks and arrays, which training, inference and evaluation call.
Source: paper section 3.3, equation 5.
"""

import jax.numpy as jnp

from tvt_jax.diffusion import ONE_STEP_TIMESTEP, predict_clean


def restore(vae, unet, image, context, *, scaling_factor, alpha_bar, noise=None):
    """Encodes, predicts the noise at `ONE_STEP_TIMESTEP`, removes it and decodes.

    Args:
      vae: an `AutoencoderKL`.
      unet: a `UNet2DConditionModel`.
      image: [B, H, W, 3] float32 in [-1, 1], the degraded image at its final size; sides are
        multiples of what VAE and UNet reduce them by.
      context: [B, N, C], the embedding of the prompt.
      scaling_factor: of the VAE's latents.
      alpha_bar: scalar, the schedule's entry at `ONE_STEP_TIMESTEP`.
      noise: maps a shape to standard normal values, float32, of which the encoder's posterior makes
        a sample; None takes its mean.

    Returns: (image [B, H, W, 3] float32, about [-1, 1] and not clipped; clean latent [B, h, w, c],
      scaled).
    """
    mean, logvar, skips = vae.encode(image)
    if noise is not None:
        mean = mean + jnp.exp(0.5 * logvar) * noise(mean.shape)
    latent = scaling_factor * mean
    noise = unet(latent, jnp.full((image.shape[0],), ONE_STEP_TIMESTEP), context)
    clean = predict_clean(latent, noise, alpha_bar)
    return vae.decode(clean / scaling_factor, skips), clean


def reconstruct(vae, image, encode=None):
    """A VAE's reconstruction: its decoder applied to the mean of its encoder's posterior.

    Args:
      vae: an `AutoencoderKL`.
      image: [B, H, W, 3] float32 in [-1, 1], sides multiples of the VAE's downsampling.
      encode: another encoder with the signature of `vae.encode`; None: the VAE's own.

    Returns: [B, H, W, 3] float32, about [-1, 1] and not clipped.
    """
    mean, _, skips = (encode or vae.encode)(image)
    return vae.decode(mean, skips)
