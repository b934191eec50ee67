"""Stage 1: a VAE decoder learns to read the latents of a frozen teacher (paper, section 3.2).

    python -m tvt_jax.train --config configs/stage1.py --workdir runs/stage1 \
        --config.data.train=PHOTOGRAPHS --config.teacher=stable-diffusion-2-1-base/vae

Variants, which combine with a comma (`configs/stage1.py:V1,tiny`):
    (none)  the paper's run: VAE-D4 from Stable Diffusion's VAE-D8, batch 256
    small   networks for CPUs, from the bundled teacher
    tiny    the same on the bundled photographs: minutes on two CPU cores, no download
    V1, V2  ablations of VAE-D4's size: widths 128, 256, 512 with and without middle sections
    S3      ablation VAE-D8C8: eight latent channels at the teacher's resolution
    S2      ablation VAE-D8-SC: the teacher's own decoder learns to use skip connections

The paper does not give the learning rate, the number of steps and the discriminator's start; they
follow latent diffusion's autoencoder training.
"""

import dataclasses

from tvt_jax.bundled import SMALL_TEACHER, small_vae, use_bundled_photographs
from tvt_jax.config import (
    VAES,
    DataConfig,
    DiscriminatorConfig,
    OptimConfig,
    VAELossConfig,
    VAETrainConfig,
    parse_variant,
)

_ABLATIONS = {"V1": "V1", "V2": "V2", "S3": "VAE-D8C8", "S2": "VAE-D8-SC"}


def get_config(variant: str = "") -> VAETrainConfig:
    """Returns the configuration of a variant."""
    ablation, size = parse_variant(variant, _ABLATIONS)
    vae = VAES[_ABLATIONS.get(ablation, "VAE-D4")]
    adam = OptimConfig(learning_rate=1e-4, warmup_steps=1000, beta1=0.5, beta2=0.9)
    config = VAETrainConfig(
        vae=vae,
        latents="teacher",
        trained=("decoder", "post_quant_conv"),
        dtype="bfloat16",
        remat=True,
        steps=200_000,
        loss=VAELossConfig(gan=0.5, gan_start=50_000),
        optim=adam,
        discriminator_optim=dataclasses.replace(adam),
        data=DataConfig(crop=512, batch_size=256, threads=32),
    )
    if vae.skip_connections:
        # The encoder is the teacher itself, and the decoder starts from the teacher's.
        config.latents, config.fresh = "own", ("decoder.skip_convs",)
    if size:
        _make_small(config)
    if size == "tiny":
        _make_tiny(config)
    return config


def _make_small(config: VAETrainConfig) -> None:
    config.vae = small_vae(config.vae)
    if config.latents == "teacher":
        config.teacher = str(SMALL_TEACHER)
    else:
        config.init_vae = str(SMALL_TEACHER)
    config.dtype, config.remat = "float32", False
    # LPIPS's VGG16 has several times the multiply-adds of these networks: too slow on a CPU.
    config.loss = VAELossConfig(lpips=0.0)
    config.steps, config.log_every, config.checkpoint_every = 2000, 100, 500
    config.optim = OptimConfig(learning_rate=1.5e-3, warmup_steps=100, schedule="cosine")
    config.data.crop, config.data.batch_size, config.data.threads = 64, 8, 2
    config.validation.every = 500


def _make_tiny(config: VAETrainConfig) -> None:
    use_bundled_photographs(config)
    config.steps = 500
    config.loss = VAELossConfig(lpips=0.0, gan=0.1, gan_start=400)
    config.discriminator = DiscriminatorConfig(base_channels=16)
    config.discriminator_optim = OptimConfig(learning_rate=1e-3, warmup_steps=50)
