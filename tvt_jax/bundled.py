"""What ships with the package: photographs, small networks, and settings of runs on them."""

import dataclasses
from pathlib import Path

from tvt_jax.config import DataConfig, TrainConfig, VAEConfig, ValidationConfig

ASSETS = Path(__file__).parent / "assets"
TRAIN_PHOTOGRAPHS = ASSETS / "photographs" / "train"
HELDOUT_PHOTOGRAPHS = ASSETS / "photographs" / "heldout"  # never trained on
# One of them, degraded as the public benchmark's images are.
DEGRADED_PHOTOGRAPH = ASSETS / "photographs" / "degraded" / "handwriting_lined_paper.png"
# The small networks, which the variants `small` of `configs/` trained; the model's folder has its
# card. The UNet's folder stands for Stable Diffusion's; its VAE is the teacher.
SMALL_MODEL = ASSETS / "tvt_small"
SMALL_TEACHER = ASSETS / "vae_small_teacher"
SMALL_VAE = SMALL_MODEL / "vae"
SMALL_UNET = ASSETS / "unet_small"
# 1 / standard deviation of the teacher's latents on photographs, measured.
SMALL_SCALING_FACTOR = 0.4607


def use_bundled_photographs(config: TrainConfig) -> None:
    """Turns a configuration into one for two CPU cores, in place: small crops, batches, float32.

    LPIPS, whose weights are not bundled, is not measured.
    """
    config.dtype, config.remat = "float32", False
    config.log_every, config.checkpoint_every = 10, 50
    config.data = DataConfig(train=str(TRAIN_PHOTOGRAPHS), crop=64, batch_size=8, threads=2)
    config.validation = ValidationConfig(
        folder=str(HELDOUT_PHOTOGRAPHS), every=250, lpips=False, images=4
    )


def small_vae(vae: VAEConfig) -> VAEConfig:
    """The same network at an eighth of its width and half its depth, with four times the latent
    channels: a narrow network needs more of them for detail."""
    return dataclasses.replace(
        vae,
        block_out_channels=tuple(width // 8 for width in vae.block_out_channels),
        latent_channels=4 * vae.latent_channels,
        layers_per_block=1,
        norm_num_groups=8,
        scaling_factor=SMALL_SCALING_FACTOR,
    )
