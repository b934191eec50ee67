"""What an epoch of a run takes on TPU slices, and what its data takes on their hosts."""

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tvt_jax.benchmarks.chips import chip_of
from tvt_jax.benchmarks.pipeline_speed import pipeline_speed, sample_shards
from tvt_jax.benchmarks.stand_ins import stand_in_vae, with_stand_ins
from tvt_jax.benchmarks.step_speed import useful_flops
from tvt_jax.config import TrainConfig
from tvt_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Costs:
    """What an image of a run costs.

    Attributes:
      flops: floating-point operations of its gradients, nothing computed twice.
      cpu_seconds: of a host, to read and prepare it.
    """

    flops: float
    cpu_seconds: float


def image_costs(config: TrainConfig, vae: str | None = None) -> Costs:
    """Counts the operations of a run for an image, and measures its data pipeline.

    Args:
      config: of the run.
      vae: as of `stand_in_vae`.

    Raises:
      UserError: `vae` is needed or unknown.
    """
    vae = stand_in_vae(config, vae)
    with tempfile.TemporaryDirectory() as folder:
        single = dataclasses.replace(config, data=dataclasses.replace(config.data, batch_size=1))
        flops = useful_flops(with_stand_ins(single, Path(folder), vae))
    with sample_shards() as shards:
        data = dataclasses.replace(config.data, train=shards, batch_size=8, prefetch=1)
        (speed,) = pipeline_speed(data, (0,), count=6)
    return Costs(flops, speed.cpu_seconds)


def epoch_table(
    config: TrainConfig, costs: Costs, chip: str, devices: Sequence[int], share: float, images: int
) -> str:
    """What slices of different sizes take, in Markdown.

    Args:
      config: of the run; a batch smaller than the slice grows to an image a device.
      costs: of an image.
      chip: of the slices, a key of `CHIPS`.
      devices: of each slice.
      share: of the chip's peak that the step reaches.
      images: of an epoch.

    Raises:
      UserError: the chip is unknown, or `share` is not one.
    """
    if not 0 < share <= 1:
        raise UserError(f"`share` {share} is not above 0 and at most 1.")
    lines = [
        "| devices | batch | images/s | a step | an epoch | device-hours | host cores for data "
        "| of |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for count in devices:
        batch = max(config.data.batch_size, count)
        rate = count * chip_of(chip).peak * 1e12 * share / costs.flops
        hours = images / rate / 3600
        lines.append(
            f"| {count} | {batch} | {rate:,.0f} | {batch / rate:.2f} s | {hours:,.1f} h "
            f"| {hours * count:,.0f} | {rate * costs.cpu_seconds:,.0f} "
            f"| {count * chip_of(chip).cores:,} |"
        )
    return "\n".join(lines)
