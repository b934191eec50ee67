"""Pre-training of a latent diffusion UNet from scratch: the teacher of a small stage 3.

    python -m tvt_jax.train --config configs/pretrain_unet.py:small --workdir runs/unet \
        --config.data.train=PHOTOGRAPHS --config.vae=runs/teacher/model/vae

Variants:
    (none)  Stable Diffusion 2.1's UNet, without text
    small   a UNet of 3 M parameters, for models that run on CPUs
    tiny    a UNet of 1 M parameters on the bundled photographs: minutes on two CPU cores, no
            download

Half of the samples are degraded photographs and told to be, which takes the place of a negative
prompt. The result is a folder for `--config.sd` of stage 3. `tiny` made the bundled `unet_tiny`.
Source of the settings: Stable Diffusion's training (batch 2048, AdamW at 1e-4, 10,000 steps of
warm-up, an average of the weights).
"""

import dataclasses

from tvt_jax.bundled import TINY_TEACHER, use_bundled_photographs
from tvt_jax.config import (
    MILD,
    SD21_UNET,
    DataConfig,
    DiffusionTrainConfig,
    OptimConfig,
)

# Attention only from the second halving on: at the resolutions above it would take most of the time
# of a restoration on a CPU.
_SMALL_UNET = dataclasses.replace(
    SD21_UNET,
    block_out_channels=(48, 64, 64, 96),
    down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2 + ("DownBlock2D",),
    up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",),
    attention_head_dim=(2, 2, 2, 3),
    layers_per_block=1,
    norm_num_groups=16,
    cross_attention_dim=64,
)
_TINY_UNET = dataclasses.replace(
    SD21_UNET,
    block_out_channels=(32, 32, 48, 48),
    attention_head_dim=(2, 2, 3, 3),
    layers_per_block=1,
    norm_num_groups=16,
    cross_attention_dim=32,
)


def get_config(variant: str = "") -> DiffusionTrainConfig:
    """Returns the configuration of a variant."""
    if variant not in ("", "small", "tiny"):
        raise ValueError(f"unknown variant {variant}; there are small, tiny")
    config = DiffusionTrainConfig(
        unet=SD21_UNET,
        required=("data.train", "vae"),
        dtype="bfloat16",
        remat=True,
        steps=500_000,
        ema_decay=0.9999,
        optim=OptimConfig(learning_rate=1e-4, warmup_steps=10_000, weight_decay=0.01),
        data=DataConfig(crop=512, batch_size=2048, threads=32, degradation=MILD),
    )
    if variant == "small":
        config.unet = _SMALL_UNET
        config.steps, config.remat, config.ema_decay = 300_000, False, 0.999
        config.optim = OptimConfig(learning_rate=1e-3, warmup_steps=1000, schedule="cosine")
        config.data.batch_size, config.data.crop, config.noises = 64, 256, 4
    if variant == "tiny":
        _shrink(config)
    return config


def _shrink(config: DiffusionTrainConfig) -> None:
    config.unet, config.vae = _TINY_UNET, str(TINY_TEACHER)
    use_bundled_photographs(config)
    config.data = dataclasses.replace(config.data, crop=128, batch_size=4, degradation=MILD)
    config.validation.crop = 128  # larger latents than it learns from would be another task
    config.steps, config.ema_decay, config.noises = 1000, 0.99, 4
    config.optim = OptimConfig(learning_rate=2e-3, warmup_steps=50, schedule="cosine")
