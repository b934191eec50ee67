"""Stage 2: a VAE encoder is trained against the frozen decoder of stage 1 (paper, section 3.2).

    python -m tvt_jax.train --config configs/stage2.py --workdir runs/stage2 \
        --config.data.train=PHOTOGRAPHS --config.init_vae=runs/stage1/model/vae

Variants, which combine with a comma (`configs/stage2.py:V1,tiny`):
    (none)  the paper's run: VAE-D4, 512 px crops, batch 256 on eight accelerators
    small   networks for CPUs
    tiny    the same on the bundled photographs: minutes on two CPU cores, no download
    V1, V2  ablations of VAE-D4's size: widths 128, 256, 512 with and without middle sections
    S3      ablation VAE-D8C8: eight latent channels

There is no GAN: it made this stage unstable in the paper. The paper does not give the
learning rate and the number of steps; they follow latent diffusion's autoencoder training.
"""

from tvt_jax.bundled import SMALL_VAE, small_vae, use_bundled_photographs
from tvt_jax.config import VAES, DataConfig, OptimConfig, VAETrainConfig, parse_variant

_ABLATIONS = {"V1": "V1", "V2": "V2", "S3": "VAE-D8C8"}


def get_config(variant: str = "") -> VAETrainConfig:
    """Returns the configuration of a variant."""
    ablation, size = parse_variant(variant, _ABLATIONS)
    config = VAETrainConfig(
        vae=VAES[_ABLATIONS.get(ablation, "VAE-D4")],
        trained=("encoder", "quant_conv"),
        fresh=("encoder", "quant_conv"),
        dtype="bfloat16",
        remat=True,
        steps=200_000,
        optim=OptimConfig(learning_rate=1e-4, warmup_steps=1000, beta1=0.5, beta2=0.9),
        data=DataConfig(crop=512, batch_size=256, threads=32),
    )
    if size:
        _make_small(config)
    if size == "tiny":
        _make_tiny(config)
    return config


def _make_small(config: VAETrainConfig) -> None:
    config.vae = small_vae(config.vae)
    config.dtype, config.remat = "float32", False
    # LPIPS's VGG16 has several times the multiply-adds of these networks: too slow on a CPU.
    config.loss.lpips = 0.0
    config.steps, config.log_every, config.checkpoint_every = 1500, 100, 500
    config.optim = OptimConfig(learning_rate=1.5e-3, warmup_steps=100, schedule="cosine")
    config.data.crop, config.data.batch_size, config.data.threads = 64, 8, 2
    config.validation.every = 500


def _make_tiny(config: VAETrainConfig) -> None:
    use_bundled_photographs(config)
    if config.vae == small_vae(VAES["VAE-D4"]):  # the decoders of the ablations are not bundled
        config.init_vae = str(SMALL_VAE)
    config.steps = 200
    config.optim = OptimConfig(learning_rate=2e-3, warmup_steps=20)
