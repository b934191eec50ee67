"""`python -m tvt_jax.bench`: figures about the networks and their speed."""

import dataclasses
import os
from pathlib import Path
from typing import Literal

from tvt_jax.cli import run
from tvt_jax.config import TrainConfig, read_config
from tvt_jax.errors import UserError


def complexity(measure: str = "", json: Path | None = None) -> None:
    """Print parameters and multiply-adds of every network, beside the paper's figures.

    Args:
        measure: systems to time too, at full size with random weights, separated by commas: V1, V2,
            S1, S2, S3, S4, S5, TVT. Each takes 4 to 6 GB on a CPU.
        json: file for the figures that were measured.
    """
    from tvt_jax.benchmarks.cost_tables import complexity_report
    from tvt_jax.benchmarks.infer_speed import infer_speed
    from tvt_jax.benchmarks.speed import write_speeds
    from tvt_jax.benchmarks.systems import system_networks
    from tvt_jax.parallel import preferred_dtype

    names = [name.strip() for name in measure.split(",") if name.strip()]
    dtype, speeds = preferred_dtype(), []
    for name in names:
        networks = system_networks(name, dtype)
        speed = infer_speed(*networks, size=512, batch_size=1, rounds=3)
        del networks  # else the next ones come on top
        speeds.append(dataclasses.replace(speed, what=f"{name}, {speed.what}"))
    print(complexity_report(speeds))
    if json is not None:
        write_speeds(json, speeds)


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
    rounds: int = 10,
    vae: str | None = None,
    json: Path | None = None,
) -> None:
    """Time a training step on the available devices: images/s, memory, share of the matmul rate.

    Args:
      config: configuration, for example configs/stage3.py or configs/stage1.py:V1. Networks whose
        folders it does not name are the paper's, with random weights.
      batch_size: instead of the configuration's.
      rounds: how many steps are timed; the median is reported.
      vae: architecture of a frozen VAE whose folder the configuration does not name: VAE-D4,
        VAE-D8, VAE-D8-SC, VAE-D8C8, V1, V2. Ablations S1 to S4 of stage 3 need it.
      json: file for the figures.
    """
    from tvt_jax.benchmarks.speed import program_speed, speed_table, write_speeds
    from tvt_jax.benchmarks.step_speed import compile_random_step

    settings = _settings(config, batch_size)
    what = f"{config}, {settings.data.crop} px, {settings.dtype}"
    speed = program_speed(what, rounds, compile_random_step, settings, vae)
    print(speed_table([speed]))
    if json is not None:
        write_speeds(json, [speed])


def infer(
    model: Path | None = None,
    size: int = 512,
    batch_size: int = 1,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    rounds: int = 10,
    json: Path | None = None,
) -> None:
    """Time the restoration by VAE and UNet: images/s, memory, share of the matmul rate.

    `python -m tests.comparisons.infer_speed` does it beside PyTorch.

    Args:
      model: model folder. Left out: the paper's networks at full size, with random weights.
      size: side of the square output, px.
      batch_size: images at a time.
      dtype: of the networks, as of `infer`.
      rounds: how many are timed; the median is reported.
      json: file for the figures.
    """
    from tvt_jax.benchmarks.infer_speed import infer_speed
    from tvt_jax.benchmarks.speed import speed_table, write_speeds
    from tvt_jax.benchmarks.systems import system_networks
    from tvt_jax.inference.loading import vae_dtype
    from tvt_jax.parallel import preferred_dtype
    from tvt_jax.weights.model_folder import check_is_model_folder, load_network

    chosen = preferred_dtype() if dtype == "auto" else dtype
    if model is None:
        networks = system_networks("TVT", chosen)
    else:
        check_is_model_folder(model)
        networks = (
            load_network(model / "vae", "vae", vae_dtype(chosen), "float32"),
            load_network(model / "unet", "unet", chosen, chosen),
        )
    speed = infer_speed(*networks, size, batch_size, rounds)
    print(speed_table([speed]))
    if json is not None:
        write_speeds(json, [speed])


def tagger(
    batch_size: int = 8,
    dtype: Literal["float32", "bfloat16"] = "float32",
    rounds: int = 10,
    json: Path | None = None,
) -> None:
    """Time the tagger at full size: images/s, memory, share of the matmul rate.

    Args:
      batch_size: images at a time.
      dtype: of weights and computation.
      rounds: how many are timed; the median is reported.
      json: file for the figures.
    """
    from tvt_jax.benchmarks.speed import program_speed, speed_table, write_speeds
    from tvt_jax.benchmarks.tagger_speed import compile_tagger

    speed = program_speed(f"tagger, {dtype}", rounds, compile_tagger, batch_size, dtype)
    print(speed_table([speed]))
    if json is not None:
        write_speeds(json, [speed])


def photographs(
    megapixels: tuple[float, ...] = (1, 4, 12, 24, 48),
    max_memory: float | None = None,
    tile: str = "auto",
    address_space: float | None = None,
) -> None:
    """Measure time and peak memory of the command `infer` on photographs of growing size.

    Args:
      megapixels: of the outputs.
      max_memory: as of `infer`.
      tile: as of `infer`.
      address_space: GiB that a process may map, as by `ulimit -v`, the output not counted.
    """
    from tvt_jax.benchmarks.photograph_memory import photograph_memory_report

    options = ["--tile", tile]
    if max_memory is not None:
        options += ["--max-memory", str(max_memory)]
    print(photograph_memory_report(megapixels, options, address_space))


def tiles(
    sides: tuple[int, ...] = (512, 1024),
    crops: tuple[int, ...] = (16, 144),
    topology: str | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> None:
    """Print the memory that `infer` takes for tiles at full size, from the compiler.

    Args:
      sides: of tiles, px.
      crops: numbers of crops that a sample of the norms' statistics has.
      topology: of a TPU slice, v5e:2x2 for example, needs libtpu, no TPU: for one of its chips.
        Left out: for this CPU.
      dtype: of the networks.
    """
    os.environ["JAX_PLATFORMS"] = "cpu"
    from tvt_jax.benchmarks.tile_memory import tile_memory_table

    print(tile_memory_table(sides, crops, topology, dtype))


def memory(
    config: str,
    topology: str = "v5e:2x4",
    batch_size: int | None = None,
    fsdp: int | None = None,
    quick: bool = False,
    vae: str | None = None,
) -> None:
    """Print what a training step takes of each device of a TPU slice; needs libtpu, no TPU.

    Memory, operations, and the bytes that these read and write.

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
    from tvt_jax.benchmarks.tpu_step import compile_tpu_step

    settings = _settings(config, batch_size)
    settings.mesh.fsdp = fsdp or settings.mesh.fsdp
    result = compile_tpu_step(settings, topology, quick, vae)
    print(
        f"{config} on {topology}, {result.devices} devices, batch {settings.data.batch_size}, "
        f"{settings.data.crop} px, fsdp {settings.mesh.fsdp}: per device "
        f"{result.held / 2**30:.2f} GiB of weights, optimizer and batch, "
        f"{result.temporary / 2**30:.2f} GiB for the step, {result.flops / 1e12:.2f} TFLOP, "
        f"{result.accessed / 1e9:.1f} GB read and written; compiled in {result.seconds:.0f} s"
    )


def scale(
    config: str,
    topologies: tuple[str, ...] = ("v5e:2x4", "v5e:8x8", "v5e:16x16"),
    images: tuple[int, ...] = (1, 2, 4),
    sides: tuple[int, ...] = (512, 256, 768),
    quick: bool = False,
    vae: str | None = None,
    output: Path = Path("outputs/scale"),
) -> None:
    """Print how a training step grows, compiled for TPU slices; needs libtpu, no TPU.

    Operations, bytes of collectives and memory of a device: by devices, by images of a device, by
    side of the crops. What does not vary is the first of its list.

    Args:
      config: configuration, for example configs/stage2.py.
      topologies: slices.
      images: of a device in a step.
      sides: of the crops, px.
      quick: as of `memory`.
      vae: as of `memory`.
      output: folder for growth.json and plots; programs whose figures it holds are not compiled
        again.
    """
    os.environ["JAX_PLATFORMS"] = "cpu"
    from tvt_jax.benchmarks.scale import growth_tables, measure_growth, write_plots

    settings, file = read_config(config), output / "growth.json"
    growth = measure_growth(settings, topologies, images, sides, quick, vae, file)
    write_plots(output, growth)
    print(growth_tables(growth))


def epoch(
    config: str,
    chip: str = "v5e",
    devices: tuple[int, ...] = (8, 64, 256),
    share: float = 0.3,
    images: int = 1_440_000,
    vae: str | None = None,
) -> None:
    """Print what an epoch takes on TPU slices, and what its data takes on their hosts.

    Operations are counted, the data pipeline is measured on this machine, and the speed of the
    chips is assumed.

    Args:
      config: configuration, for example configs/stage3.py.
      chip: v5e, v5p or v6e.
      devices: sizes of the slices.
      share: of the chip's peak that a step is assumed to reach.
      images: of an epoch; the paper cuts LSDIR into 1.44 million.
      vae: as of `memory`.
    """
    from tvt_jax.benchmarks.epoch import epoch_table, image_costs

    settings = read_config(config)
    costs = image_costs(settings, vae)
    print(
        f"{config}: {costs.flops / 1e12:.2f} TFLOP and {1000 * costs.cpu_seconds:.1f} ms of a CPU "
        f"core an image; {chip} at {share:.0%} of its peak"
    )
    print(epoch_table(settings, costs, chip, devices, share, images))


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
        {
            "complexity": complexity,
            "data": data,
            "step": step,
            "infer": infer,
            "tagger": tagger,
            "photographs": photographs,
            "tiles": tiles,
            "memory": memory,
            "scale": scale,
            "epoch": epoch,
        },
        prog="python -m tvt_jax.bench",
    )
