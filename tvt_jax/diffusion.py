"""The noise schedule and the single denoising step.

Source: paper equation 5; diffusers `DDPMScheduler`, whose step at t = 1 with one inference step
reduces to the prediction of the clean latent.
"""

import jax.numpy as jnp
import numpy as np

from tvt_jax.config import SchedulerConfig

ONE_STEP_TIMESTEP = 1  # the degraded image is treated as almost clean


def alphas_cumprod(config: SchedulerConfig) -> np.ndarray:
    """Returns the share of signal variance at each timestep, float32 [num_train_timesteps]."""
    betas = np.linspace(
        config.beta_start**0.5, config.beta_end**0.5, config.num_train_timesteps, dtype=np.float64
    )
    return np.cumprod(1.0 - betas**2).astype(np.float32)


def add_noise(latent, noise, alpha_bar):
    """Diffuses a latent.

    Args:
      latent, noise: [B, h, w, C] float32.
      alpha_bar: [B] or scalar, entries of `alphas_cumprod`.

    Returns: [B, h, w, C] float32.
    """
    signal = jnp.reshape(jnp.asarray(alpha_bar), (-1, 1, 1, 1))
    return jnp.sqrt(signal) * latent + jnp.sqrt(1.0 - signal) * noise


def predict_clean(latent, noise, alpha_bar):
    """Inverts `add_noise` for a predicted noise; the same shapes and dtypes."""
    signal = jnp.reshape(jnp.asarray(alpha_bar), (-1, 1, 1, 1))
    return (latent - jnp.sqrt(1.0 - signal) * noise) / jnp.sqrt(signal)
