"""Stage 2: the VAE-D4 encoder against the decoder of stage 1 (paper, section 3.2).

    python -m tvt_jax.train --config configs/stage2.py --workdir runs/stage2 \
        --config.data.train=PHOTOGRAPHS --config.init_vae=runs/stage1/model/vae

Variants:
    (none)        the paper's run: 512 px crops, batch 256 on eight accelerators
    tiny          a small VAE on the bundled photographs: minutes on two CPU cores, no download
    tiny_decoder  how the frozen decoder of `tiny` came about: encoder and decoder from scratch

The paper's text does not tell the learning rate and the number of steps; they follow latent
diffusion's autoencoder training. Its second loss term, LPIPS, is not part of this version.
"""

from pathlib import Path

import tvt_jax
from tvt_jax.config import VAE_D4, DataConfig, OptimConfig, TrainConfig, VAEConfig

_ASSETS = Path(tvt_jax.__file__).parent / "assets"
_TINY_VAE = VAEConfig(block_out_channels=(16, 32, 32), norm_num_groups=8, mid_block=False)


def get_config(variant: str = "") -> TrainConfig:
    """Returns the configuration of a variant."""
    paper = TrainConfig(
        stage="stage2",
        vae=VAE_D4,
        trained=("encoder", "quant_conv"),
        required=("data.train", "init_vae"),
        dtype="bfloat16",
        remat=True,
        steps=200_000,
        optim=OptimConfig(learning_rate=1e-4, warmup_steps=1000, beta1=0.5, beta2=0.9),
        data=DataConfig(crop=512, batch_size=256, threads=32),
    )
    if not variant:
        return paper
    tiny = TrainConfig(
        stage="stage2",
        vae=_TINY_VAE,
        trained=("encoder", "quant_conv"),
        init_vae=str(_ASSETS / "vae_tiny"),
        steps=200,
        log_every=10,
        checkpoint_every=50,
        optim=OptimConfig(learning_rate=2e-3, warmup_steps=20),
        data=DataConfig(
            train=str(_ASSETS / "photographs" / "train"), crop=64, batch_size=8, threads=2
        ),
    )
    if variant == "tiny":
        return tiny
    if variant == "tiny_decoder":
        tiny.init_vae = ""
        tiny.trained = ("encoder", "quant_conv", "post_quant_conv", "decoder")
        tiny.steps = 1500
        tiny.log_every = 50
        tiny.checkpoint_every = 500
        return tiny
    raise ValueError(f"unknown variant {variant!r}; there are tiny and tiny_decoder")
