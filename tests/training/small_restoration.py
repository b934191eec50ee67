"""A run of stage 3 so small that its step compiles in seconds."""

from pathlib import Path

from tvt_jax.bundled import TRAIN_PHOTOGRAPHS
from tvt_jax.config import (
    MILD,
    DataConfig,
    OptimConfig,
    RestorationLossConfig,
    RestorationTrainConfig,
)

# What the release trains in full, in a generator of three levels.
FULL_PARTS = ("down_blocks.0", "up_blocks.1.upsamplers.0", "up_blocks.2", "conv_in", "conv_out")


def small_restoration(folder: Path, **changes) -> RestorationTrainConfig:
    """The release's run with the networks of `tests.support.small_sd` in `folder`."""
    values = dict(
        sd=str(folder / "sd"),
        vae=str(folder / "vae"),
        trained=FULL_PARTS,
        steps=4,
        log_every=1,
        checkpoint_every=2,
        loss=RestorationLossConfig(lpips=0.0, patch=8),
        optim=OptimConfig(learning_rate=1e-3, warmup_steps=0, weight_decay=1e-2, clip_norm=1.0),
        critic_optim=OptimConfig(1e-3, warmup_steps=0, weight_decay=1e-2, clip_norm=1.0),
        data=DataConfig(
            train=str(TRAIN_PHOTOGRAPHS), crop=48, batch_size=2, threads=1, degradation=MILD
        ),
    )
    return RestorationTrainConfig(**{**values, **changes})
