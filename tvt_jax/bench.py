"""`python -m tvt_jax.bench`: figures about the networks and their speed."""

import os

from tvt_jax.cli import run
from tvt_jax.config import TrainConfig, read_config
from tvt_jax.errors import UserError


def complexity(measure: str = "") -> None:
    """Print parameters and multiply-adds of every network, beside the paper's figures.

    Args:
        measure: systems to time too, at full size with random weights, separated by commas: V1, V2,
            S1, S2, S3, S4, S5, TVT. Each takes 4 to 6 GB on a CPU.
    """
    from tvt_jax.benchmarks.cost_tables import complexity_report
    from tvt_jax.benchmarks.systems import system_speed

    names = [name.strip() for name in measure.split(",") if name.strip()]
    print(complexity_report({name: system_speed(name) for name in names}))


def data(crop: int = 512, rounds: int = 7, images: int = 16) -> None:
    """Time the degradation on one thread with both presets, and the pipeline by worker processes.

    Args:
      crop: side of the crops, px.
      rounds: number of measurements; the median is reported.
      images: in a round.
    """
    from tvt_jax.benchmarks.data_speed import degradation_speed_report
    from tvt_jax.benchmarks.pipeline_speed import pipeline_speed_report

    print(degradation_speed_report(crop, rounds, images))
    print()
    print(pipeline_speed_report())


def step(
    config: str,
    batch_size: int | None = None,
    steps: int = 10,
    vae: str | None = None,
) -> None:
    """Time a training step on the available devices: images/s, memory, share of the peak.

    Args:
      config: configuration, for example configs/stage3.py or configs/stage1.py:V1. Networks whose
        folders it does not name are the paper's, with random weights.
      batch_size: instead of the configuration's.
      steps: how many are timed; the median is reported.
      vae: architecture of a frozen VAE whose folder the configuration does not name: VAE-D4,
        VAE-D8, VAE-D8-SC, VAE-D8C8, V1, V2. Ablations S1 to S4 of stage 3 need it.
    """
    from tvt_jax.benchmarks.step_speed import step_speed

    settings = _settings(config, batch_size)
    result = step_speed(settings, steps, vae)
    print(f"{config}, {settings.data.crop} px, {result.described()}")


def infer(
    megapixels: tuple[float, ...] = (1, 4, 12, 24, 48),
    max_memory: float | None = None,
    tile: str = "auto",
    address_space: float | None = None,
) -> None:
    """Measure time and peak memory of `infer` on images of growing size.

    Args:
      megapixels: of the outputs.
      max_memory: as of `infer`.
      tile: as of `infer`.
      address_space: GiB that a process may map, as by `ulimit -v`, the output not counted.
    """
    from tvt_jax.benchmarks.infer_memory import infer_memory_report

    options = ["--tile", tile]
    if max_memory is not None:
        options += ["--max-memory", str(max_memory)]
    print(infer_memory_report(megapixels, options, address_space))


def memory(
    config: str,
    topology: str = "v5e:2x4",
    batch_size: int | None = None,
    fsdp: int | None = None,
    quick: bool = False,
    vae: str | None = None,
) -> None:
    """Print the memory of a training step on each device of a TPU slice; needs libtpu, no TPU.

    Args:
      config: configuration, for example configs/stage3.py or configs/stage1.py:V1.
      topology: chip and arrangement: v5e:2x4, v5p:2x2x1, v6e:2x4 ...
      batch_size: instead of the configuration's.
      fsdp: shards of weights and moments, instead of the configuration's.
      quick: compile with little effort, in much less time: shows that the step compiles and
        shards; its memory is not that of a real run.
      vae: architecture of a frozen VAE whose folder the configuration does not name: VAE-D4,
        VAE-D8, VAE-D8-SC, VAE-D8C8, V1, V2. Ablations S1 to S4 of stage 3 need it.
    """
    os.environ["JAX_PLATFORMS"] = "cpu"
    from tvt_jax.benchmarks.step_memory import tpu_step_memory

    settings = _settings(config, batch_size)
    settings.mesh.fsdp = fsdp or settings.mesh.fsdp
    result = tpu_step_memory(settings, topology, quick, vae)
    print(
        f"{config} on {topology}, {result.devices} devices, batch {settings.data.batch_size}, "
        f"{settings.data.crop} px, fsdp {settings.mesh.fsdp}: per device "
        f"{result.held / 2**30:.2f} GiB of weights, optimizer and batch, "
        f"{result.temporary / 2**30:.2f} GiB for the step, {result.flops / 1e12:.2f} TFLOP; "
        f"compiled in {result.seconds:.0f} s"
    )


def _settings(config: str, batch_size: int | None) -> TrainConfig:
    """The configuration of a run, with the size of its batch."""
    settings = read_config(config)
    if batch_size is not None:
        if batch_size < 1:
            raise UserError("`batch_size` must be at least 1.")
        settings.data.batch_size = batch_size
    return settings


if __name__ == "__main__":
    run(
        {"complexity": complexity, "data": data, "step": step, "infer": infer, "memory": memory},
        prog="python -m tvt_jax.bench",
    )
