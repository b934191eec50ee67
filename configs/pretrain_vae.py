"""Training a VAE from scratch: a teacher for those without Stable Diffusion, and ablations T1, T2.

    python -m tvt_jax.train --config configs/pretrain_vae.py --workdir runs/teacher \
        --config.data.train=PHOTOGRAPHS

Variants, which combine with a comma (`configs/pretrain_vae.py:T1,tiny`):
    (none)  VAE-D8 as latent diffusion trains it
    small   networks for CPUs: the teacher of the model that is shipped
    tiny    the same on the bundled photographs: minutes on two CPU cores, no download
    T1      ablation: VAE-D4 from scratch, without a teacher
    T2      ablation: VAE-D4 from scratch, its latents pulled to a teacher's by their L2 distance

`small` made the bundled `vae_small_teacher`. Source of the settings: latent diffusion's autoencoder
configurations; the weight of T2's latent term is not known.
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


def get_config(variant: str = "") -> VAETrainConfig:
    """Returns the configuration of a variant."""
    ablation, size = parse_variant(variant, ("T1", "T2"))
    adam = OptimConfig(learning_rate=1e-4, warmup_steps=1000, beta1=0.5, beta2=0.9)
    config = VAETrainConfig(
        vae=VAES["VAE-D4" if ablation else "VAE-D8"],
        trained=("encoder", "quant_conv", "post_quant_conv", "decoder"),
        dtype="bfloat16",
        remat=True,
        steps=400_000,
        loss=VAELossConfig(kl=1e-6, gan=0.5, gan_start=50_000),
        optim=adam,
        discriminator_optim=dataclasses.replace(adam),
        data=DataConfig(crop=256, batch_size=256, threads=32),
    )
    if ablation == "T2":
        config.loss.latent = 1.0
    if size:
        _make_small(config)
    if size == "tiny":
        _make_tiny(config)
    return config


def _make_small(config: VAETrainConfig) -> None:
    config.vae = small_vae(config.vae)
    if config.loss.latent:
        config.teacher = str(SMALL_TEACHER)
    config.dtype, config.remat = "float32", False
    # LPIPS's VGG16 has several times the multiply-adds of these networks: too slow on a CPU.
    # Without KL, the latents have a scale of their own: `bundled.SMALL_SCALING_FACTOR`.
    config.loss.lpips, config.loss.gan, config.loss.kl = 0.0, 0.0, 0.0
    config.steps, config.log_every, config.checkpoint_every = 2400, 100, 500
    config.optim = OptimConfig(learning_rate=1.5e-3, warmup_steps=100, schedule="cosine")
    config.data.crop, config.data.batch_size, config.data.threads = 48, 16, 2
    config.validation.every = 600


def _make_tiny(config: VAETrainConfig) -> None:
    use_bundled_photographs(config)
    config.steps = 500
    config.discriminator = DiscriminatorConfig(base_channels=16)
