"""Stage 3: real-world super-resolution in one step of diffusion (paper, section 3.3).

    python -m tvt_jax.train --config configs/stage3.py --workdir runs/stage3 \
        --config.data.train=PHOTOGRAPHS --config.sd=stable-diffusion-2-1-base \
        --config.vae=runs/stage2/model/vae

PHOTOGRAPHS are shards that `prepare --tag-with` tagged, or a folder of photographs without tags.
The result, `runs/stage3/model`, is what `infer --model` takes.

Variants, which combine with a comma (`configs/stage3.py:S4,tiny`):
    (none)  the paper's run: VAE-D4 and the compute-efficient UNet, batch 16
    small   networks for CPUs, from the bundled teacher and VAE; the model that is shipped took
            five runs of it, which its card has (tvt_jax/assets/tvt_small/README.md)
    tiny    the same on the bundled photographs: minutes on two CPU cores, no download
    S1      ablation: Stable Diffusion's VAE and UNet, the setting of OSEDiff, with adapters in the
            VAE's encoder; --config.vae=stable-diffusion-2-1-base/vae
    S2      ablation: S1 with the VAE of `configs/stage1.py:S2`, which has skip connections
    S3      ablation: S1 with the VAE of `configs/stage2.py:S3`, which has eight latent channels
    S4      ablation: VAE-D4 with Stable Diffusion's UNet as it is
    S5      ablation: VAE-D4 with Stable Diffusion's UNet pruned by a quarter of its channels

Source of the settings: the release. Where the ablations are not described: S1 denoises at the same
timestep as TVT (OSEDiff starts at 999), so that they differ in their networks only, and S5 trains
the pruned UNet in full, since pruning moves every layer.
"""

import copy

from tvt_jax.bundled import SMALL_TEACHER, SMALL_UNET, SMALL_VAE, use_bundled_photographs
from tvt_jax.config import MILD, DataConfig, OptimConfig, RestorationTrainConfig, parse_variant

_TVT = dict(
    generator="replicated",
    trained=("down_blocks.0", "up_blocks.3.upsamplers.0", "up_blocks.4", "conv_in", "conv_out"),
)
_ABLATIONS = {
    "S1": dict(generator="same", trained=("conv_in",), vae_lora_rank=4),
    "S2": dict(generator="same", trained=("conv_in",)),
    "S3": dict(generator="same", trained=("conv_in", "conv_out"), interpolated_latents=True),
    "S4": dict(generator="same", trained=("conv_in",)),
    "S5": dict(
        generator="pruned",
        trained=(
            "conv_in", "time_embedding", "down_blocks", "mid_block", "up_blocks", "conv_norm_out",
            "conv_out",
        ),
        lora_rank=0,
    ),
}  # fmt: skip


def get_config(variant: str = "") -> RestorationTrainConfig:
    """Returns the configuration of a variant."""
    ablation, size = parse_variant(variant, _ABLATIONS)
    # The release's command names 500 steps of warm-up, but its constant schedule ignores them.
    adamw = OptimConfig(learning_rate=5e-5, warmup_steps=0, weight_decay=1e-2, clip_norm=1.0)
    config = RestorationTrainConfig(
        **_ABLATIONS.get(ablation, _TVT),
        dtype="bfloat16",
        remat=True,
        steps=100_000,
        optim=adamw,
        critic_optim=copy.copy(adamw),
        data=DataConfig(crop=512, batch_size=16, threads=32, degradation=copy.deepcopy(MILD)),
    )
    if size:
        _make_small(config, ablation)
    if size == "tiny":
        _make_tiny(config)
    return config


def _make_small(config: RestorationTrainConfig, ablation: str) -> None:
    config.sd = str(SMALL_UNET)
    if ablation == "S1":
        config.vae = str(SMALL_TEACHER)
    elif ablation not in ("S2", "S3"):  # the VAEs of these ablations are not bundled
        config.vae = str(SMALL_VAE)
    config.dtype, config.remat = "float32", False
    if config.lora_rank:
        config.lora_rank = 16  # a quarter of the width
    config.data.crop, config.data.batch_size, config.data.threads = 128, 4, 2
    for degradation_pass in (config.data.degradation.first, config.data.degradation.second):
        degradation_pass.jpeg_range = (30.0, 95.0)  # like the preset `STRONG`
    config.critic_lora_parts = ()
    config.loss.patch = 16  # what the small teacher was trained with
    # The small teacher is weak. LPIPS has less weight than in the paper, in favour of PSNR.
    config.loss.vsd, config.loss.lpips = 0.01, 0.1
    config.steps, config.log_every, config.checkpoint_every = 2000, 100, 250
    config.optim = OptimConfig(
        learning_rate=2e-3, warmup_steps=100, schedule="cosine", clip_norm=1.0
    )
    config.critic_optim = OptimConfig(learning_rate=1e-3, warmup_steps=100, clip_norm=1.0)
    config.validation.every = 500


def _make_tiny(config: RestorationTrainConfig) -> None:
    degradation = config.data.degradation
    use_bundled_photographs(config)
    config.data.degradation = degradation
    config.loss.patch = 8  # four quadrants of a 64 px crop under VAE-D4
    # LPIPS needs weights that are not bundled; see README.
    config.loss.lpips = 0.0
    config.steps = 1000
