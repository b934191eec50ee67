"""What the package brings along: photographs, small networks, and runs that need nothing else."""

import dataclasses
from pathlib import Path

from tvt_jax.config import DataConfig, TrainConfig, VAEConfig, ValidationConfig

ASSETS = Path(__file__).parent / "assets"
TRAIN_PHOTOGRAPHS = ASSETS / "photographs" / "train"
HELDOUT_PHOTOGRAPHS = ASSETS / "photographs" / "heldout"  # for measuring only
# Made by `configs/pretrain_vae.py:tiny`; by `configs/stage1.py:tiny` and then
# `configs/stage2.py:tiny` (1200 steps, cosine); by `configs/pretrain_unet.py:tiny`. The UNet's
# folder stands for Stable Diffusion's; its VAE is the teacher.
TINY_TEACHER = ASSETS / "vae_tiny_teacher"
TINY_VAE = ASSETS / "vae_tiny"
TINY_UNET = ASSETS / "unet_tiny"
# 1 / standard deviation of their latents, 6.92 on the bundled photographs.
TINY_SCALING_FACTOR = 0.1444


def use_bundled_photographs(config: TrainConfig) -> None:
    """Turns a configuration into one for two CPU cores, in place: small crops, batches, float32.

    LPIPS, whose weights are not bundled, is not measured.
    """
    config.required = ()
    config.dtype, config.remat = "float32", False
    config.log_every, config.checkpoint_every = 10, 50
    config.data = DataConfig(train=str(TRAIN_PHOTOGRAPHS), crop=64, batch_size=8, threads=2)
    config.validation = ValidationConfig(
        folder=str(HELDOUT_PHOTOGRAPHS), every=250, lpips=False, pictures=4
    )


def tiny_vae(vae: VAEConfig) -> VAEConfig:
    """The same network at an eighth of its width, with the latents of the bundled VAEs."""
    widths = tuple(width // 8 for width in vae.block_out_channels)
    return dataclasses.replace(
        vae,
        block_out_channels=widths,
        norm_num_groups=8,
        scaling_factor=TINY_SCALING_FACTOR,
    )
