"""A Stable Diffusion folder so small that a step of stage 3 compiles in seconds."""

import json
from pathlib import Path

from diffusers import UNet2DConditionModel

from tests.support.small_release import (
    CONTEXT,
    randomise,
    small_text_encoder,
    vae_d4,
    write_scheduler,
)
from tests.support.small_tokenizer import write_tokenizer
from tvt_jax.config import VAEConfig

WIDTH, GROUPS = 32, 8
VAE_WIDTHS = (64, 64)  # a downsampling of 2; two channels in a norm group


def small_unet() -> UNet2DConditionModel:
    """SD's UNet with two levels of one layer."""
    return randomise(
        UNet2DConditionModel(
            block_out_channels=(WIDTH, WIDTH),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            attention_head_dim=(2, 4),
            cross_attention_dim=CONTEXT,
            use_linear_projection=True,
            norm_num_groups=GROUPS,
            sample_size=8,
        ).eval()
    )


def write_small_sd(root: Path) -> UNet2DConditionModel:
    """Writes `root` as a Stable Diffusion folder, and returns its UNet."""
    vocabulary = write_tokenizer(root / "tokenizer")
    small_text_encoder(vocabulary, layers=1).save_pretrained(root / "text_encoder")
    unet = small_unet()
    unet.save_pretrained(root / "unet")
    write_scheduler(root)
    return unet


def write_small_vae(folder: Path):
    """Writes a VAE-D4 of two levels as a folder, and returns it."""
    vae = vae_d4(VAE_WIDTHS).requires_grad_(False)
    vae.save_pretrained(folder)
    config = VAEConfig(block_out_channels=VAE_WIDTHS, mid_block=False)
    (folder / "config.json").write_text(json.dumps(config.to_json()))
    return vae
