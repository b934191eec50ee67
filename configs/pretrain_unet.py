"""Pre-training of a latent diffusion UNet from scratch: the teacher of a small stage 3.

    python -m tvt_jax.train --config configs/pretrain_unet.py:small --workdir runs/unet \
        --config.data.train=PHOTOGRAPHS --config.vae=runs/teacher/model/vae

Variants:
    (none)  Stable Diffusion 2.1's UNet, without text
    small   a UNet of 1.6 M parameters for the latents of the bundled teacher
    tiny    the same on the bundled photographs: minutes on two CPU cores, no download

Half of the samples are degraded photographs, marked as such in place of a negative prompt.
The result is a folder for `--config.sd` of stage 3. `small` made the bundled `unet_small`.
Source of the settings: Stable Diffusion's training (batch 2048, AdamW at 1e-4, 10,000 steps of
warm-up, an average of the weights).
"""

import dataclasses

from tvt_jax.bundled import SMALL_TEACHER, use_bundled_photographs
from tvt_jax.config import (
    MILD,
    SD21_UNET,
    DataConfig,
    DiffusionTrainConfig,
    OptimConfig,
    parse_variant,
)

# Attention at one resolution and in the middle only: at higher resolutions it would dominate the
# time of a restoration on a CPU.
_SMALL_UNET = dataclasses.replace(
    SD21_UNET,
    in_channels=16,
    out_channels=16,
    block_out_channels=(64, 48, 48, 48),
    down_block_types=("DownBlock2D",) * 2 + ("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D") + ("UpBlock2D",) * 2,
    attention_head_dim=2,
    layers_per_block=1,
    norm_num_groups=16,
    cross_attention_dim=32,
)


def get_config(variant: str = "") -> DiffusionTrainConfig:
    """Returns the configuration of a variant."""
    _, size = parse_variant(variant)
    config = DiffusionTrainConfig(
        unet=SD21_UNET,
        dtype="bfloat16",
        remat=True,
        steps=500_000,
        ema_decay=0.9999,
        optim=OptimConfig(learning_rate=1e-4, warmup_steps=10_000, weight_decay=0.01),
        data=DataConfig(crop=512, batch_size=2048, threads=32, degradation=MILD),
    )
    if size:
        _make_small(config)
    if size == "tiny":
        _make_tiny(config)
    return config


def _make_small(config: DiffusionTrainConfig) -> None:
    config.unet, config.vae = _SMALL_UNET, str(SMALL_TEACHER)
    config.dtype, config.remat = "float32", False
    config.steps, config.log_every, config.checkpoint_every = 1500, 100, 500
    config.ema_decay, config.noises = 0.995, 4
    config.optim = OptimConfig(learning_rate=2e-3, warmup_steps=100, schedule="cosine")
    config.data.crop, config.data.batch_size, config.data.threads = 128, 4, 2
    # Larger latents than those it is trained on would be another task.
    config.validation.every, config.validation.crop = 1000, 128


def _make_tiny(config: DiffusionTrainConfig) -> None:
    use_bundled_photographs(config)
    config.data = dataclasses.replace(config.data, crop=128, batch_size=4, degradation=MILD)
    config.validation.crop = 128
    config.steps, config.ema_decay = 1000, 0.99
