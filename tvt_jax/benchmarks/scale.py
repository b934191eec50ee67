"""How a training step grows with devices, batch and image size, compiled for TPU slices."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from tvt_jax.benchmarks.chips import chip_of
from tvt_jax.benchmarks.tpu_step import CompiledStep, compile_tpu_step, tpu_devices
from tvt_jax.config import TrainConfig
from tvt_jax.curves import plot
from tvt_jax.errors import UserError
from tvt_jax.files import read_json, write_json
from tvt_jax.progress import progress

_GIB, _MIB, _TERA = 2**30, 2**20, 1e12


@dataclasses.dataclass(frozen=True)
class Case:
    """What is compiled.

    Attributes:
      topology: of the slice.
      images: of a device in a step.
      side: of the crops, px.
      fsdp: parts that weights and moments are split into.
    """

    topology: str
    images: int
    side: int
    fsdp: int


@dataclasses.dataclass(frozen=True)
class Growth:
    """Steps by case; None for one that a device's memory cannot hold."""

    steps: dict[Case, CompiledStep | None]

    def rows(self, **fixed) -> list[tuple[Case, CompiledStep | None]]:
        """The cases with these attributes."""
        return [
            (case, step)
            for case, step in self.steps.items()
            if all(getattr(case, name) == value for name, value in fixed.items())
        ]


def measure_growth(
    config: TrainConfig,
    topologies: Sequence[str],
    images: Sequence[int],
    sides: Sequence[int],
    quick: bool,
    vae: str | None,
    file: Path,
) -> Growth:
    """Compiles the step of a run: one thing varies, the others are the first of their kind.

    Args:
      config: of the run.
      topologies: slices; each is compiled with whole weights on every device, and with weights
        split over the devices of the first.
      images: a device in a step.
      sides: of the crops, px.
      quick, vae: as of `compile_tpu_step`.
      file: JSON file of the figures, written after each program; those that are in it already are
        not compiled again.

    Raises:
      UserError: as `compile_tpu_step`, except for lack of memory; `file` holds another run's.
    """
    figures = [field.name for field in dataclasses.fields(CompiledStep)]
    run = {"config": config.identity(), "quick": quick, "vae": vae, "figures": figures}
    known = _read_known(file, run)
    split = len(tpu_devices(topologies[0]))
    first = Case(topologies[0], images[0], sides[0], 1)
    cases = [
        dataclasses.replace(first, topology=topology, fsdp=fsdp)
        for topology in topologies
        for fsdp in (1, split)
    ]
    cases += [dataclasses.replace(first, images=count) for count in images]
    cases += [dataclasses.replace(first, side=side) for side in sides]
    steps: dict[Case, CompiledStep | None] = {}
    for case in progress(list(dict.fromkeys(cases)), "programs"):
        steps[case] = known[case] if case in known else _compile(config, case, quick, vae)
        rows = [
            {"case": dataclasses.asdict(c), "step": s and dataclasses.asdict(s)}
            for c, s in {**known, **steps}.items()
        ]
        write_json(file, {"run": run, "rows": rows})
    return Growth(steps)


def _read_known(file: Path, run: dict) -> dict[Case, CompiledStep | None]:
    if not file.exists():
        return {}
    read = read_json(file)
    if read["run"] != run:
        raise UserError(f"{file} holds another run's figures; remove it or choose another output.")
    return {
        Case(**row["case"]): row["step"] and CompiledStep(**row["step"]) for row in read["rows"]
    }


def _compile(config: TrainConfig, case: Case, quick: bool, vae: str | None) -> CompiledStep | None:
    devices = len(tpu_devices(case.topology))
    data = dataclasses.replace(
        config.data, crop=case.side, batch_size=case.images * devices * config.accumulate
    )
    mesh = dataclasses.replace(config.mesh, data=-1, fsdp=case.fsdp)
    settings = dataclasses.replace(config, data=data, mesh=mesh)
    try:
        return compile_tpu_step(settings, case.topology, quick, vae)
    except UserError as error:
        if "memory" in str(error):
            return None
        raise


def growth_tables(growth: Growth) -> str:
    """Three tables in Markdown: by devices, by images of a device, by side."""
    first = next(iter(growth.steps))
    lines = [
        "| slice | devices | weights split into | collectives a device: MiB | at the links' rate "
        "| weights, optimizer, batch | for the step |",
        "|---|---|---|---|---|---|---|",
    ]
    for case, step in growth.rows(images=first.images, side=first.side):
        if step is None:
            lines.append(f"| {case.topology} | | {case.fsdp} | does not fit | | | |")
            continue
        kinds = ", ".join(f"{kind} {n / _MIB:,.0f}" for kind, n in step.collectives.items())
        lines.append(
            f"| {case.topology} | {step.devices} | {case.fsdp} | {kinds} "
            f"| {1000 * collective_seconds(case, step):.1f} ms | {step.held / _GIB:.2f} GiB "
            f"| {step.temporary / _GIB:.2f} GiB |"
        )
    for title, fixed, name in (
        ("images a device", {"side": first.side}, "images"),
        ("side, px", {"images": first.images}, "side"),
    ):
        lines += [
            "",
            f"| {title} | TFLOP a device | weights, optimizer, batch | for the step |",
            "|---|---|---|---|",
        ]
        for case, step in growth.rows(topology=first.topology, fsdp=1, **fixed):
            value = getattr(case, name)
            if step is None:
                lines.append(f"| {value} | does not fit | | |")
            else:
                lines.append(
                    f"| {value} | {step.flops / _TERA:.1f} | {step.held / _GIB:.2f} GiB "
                    f"| {step.temporary / _GIB:.2f} GiB |"
                )
    return "\n".join(lines)


def collective_seconds(case: Case, step: CompiledStep) -> float:
    """Time of a step's collectives, were they alone and at the rate of the chip's links.

    A ring's all-reduce sends twice what it sums up, another collective its result once.
    """
    sent = sum(n * (2 if kind == "all-reduce" else 1) for kind, n in step.collectives.items())
    return sent / (chip_of(case.topology).links * 1e9 / 2)


def write_plots(output: Path, growth: Growth) -> None:
    """Writes plots of operations and memory by images of a device and by side, as SVG."""
    first = next(iter(growth.steps))
    output.mkdir(parents=True, exist_ok=True)
    for name, title, fixed in (
        ("images", "images a device", {"side": first.side}),
        ("side", "side of the crops, px", {"images": first.images}),
    ):
        points = [
            (getattr(case, name), step)
            for case, step in growth.rows(topology=first.topology, fsdp=1, **fixed)
            if step is not None
        ]
        curves = {
            "GiB for a step": [(x, step.temporary / _GIB) for x, step in points],
            "TFLOP": [(x, step.flops / _TERA) for x, step in points],
        }
        (output / f"by_{name}.svg").write_text(plot(curves, title, "a device"), encoding="utf-8")
