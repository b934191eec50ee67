"""A run so small that a step takes milliseconds."""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import safetensors.numpy

from tvt_jax.bundled import TRAIN_PHOTOGRAPHS
from tvt_jax.config import DataConfig, OptimConfig, VAEConfig, VAELossConfig, VAETrainConfig

SMALL_VAE = VAEConfig(
    block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, mid_block=False
)


def small_config(**changes) -> VAETrainConfig:
    """Stage 2 of a VAE with two levels of eight channels: L1 only, from random weights."""
    values = dict(
        vae=SMALL_VAE,
        trained=("encoder", "quant_conv"),
        steps=6,
        log_every=1,
        checkpoint_every=2,
        loss=VAELossConfig(lpips=0.0),
        optim=OptimConfig(learning_rate=1e-3, warmup_steps=2),
        data=DataConfig(train=str(TRAIN_PHOTOGRAPHS), crop=16, batch_size=4, threads=1),
    )
    return VAETrainConfig(**{**values, **changes})


def read_metrics(workdir: Path, key: str = "loss") -> list[dict]:
    """The lines of `metrics.jsonl` that hold `key`."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if key in line]


def read_weights(workdir: Path) -> dict:
    """The trained VAE's tensors."""
    return safetensors.numpy.load_file(
        workdir / "model" / "vae" / "diffusion_pytorch_model.safetensors"
    )


def wait_for_step(process: subprocess.Popen, workdir: Path, step: int) -> None:
    """Waits, two minutes at most, until `metrics.jsonl` of a running process holds a step."""
    path = workdir / "metrics.jsonl"
    for _ in range(2400):
        if path.is_file() and any(line.get("step", 0) >= step for line in _whole_lines(path)):
            return
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.05)
    raise TimeoutError


def _whole_lines(path: Path) -> Iterator[dict]:
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except ValueError:  # being written
            continue
