"""An ablation from its runs to the table: training, evaluation, cost, spread and curves."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tvt_jax.ablation.runs import Run, read_runs, train_run
from tvt_jax.benchmarks.complexity import Cost, unet_cost, vae_cost
from tvt_jax.curves import plot
from tvt_jax.errors import UserError
from tvt_jax.evaluation.datasets import find_dataset
from tvt_jax.evaluation.protocol import find_protocol
from tvt_jax.evaluation.public_benchmark import write_benchmark
from tvt_jax.evaluation.quality import SHOWN, Quality
from tvt_jax.evaluation.report import markdown_table, metric_titles, write_reports
from tvt_jax.evaluation.restoration_report import evaluate_restoration
from tvt_jax.evaluation.vae_report import evaluate_vaes
from tvt_jax.files import atomic_file, read_json, write_json
from tvt_jax.weights.model_folder import network_folder, read_network_config

_IMAGE = 512  # px, for which multiply-adds are counted
_CURVE = "validation/psnr"


def compare_runs(
    texts: Sequence[str],
    output: Path,
    steps: int | None = None,
    seeds: Sequence[int] = (0,),
    photographs: str | None = None,
    dataset: str | None = None,
    data: Path = Path("."),
    metrics: Sequence[str] | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Trains all runs with all seeds, evaluates them on one data set and writes the comparison.

    A run that ends with a VAE is measured by what it reconstructs of the data set's high
    resolution, a run that ends with a model by what it restores of the low one.

    Args:
      texts, steps, photographs: see `read_runs`.
      output: folder of runs, `report.json`, `.csv`, `.md` and `curves.svg`. With the same arguments
        it is resumed: what is there is not done again.
      seeds: each run is trained with each.
      dataset, data: see `find_dataset`; default the public benchmark.
      metrics: default those of the protocol "paper".
      quiet: no progress bars, no notes.

    Returns: the report, ready for JSON: what was asked, `notes`, and `runs`, each with `name`,
      `stages`, `parameters`, `multiply_adds` (layers, attention), `mean`, `spread` (standard
      deviation over seeds, None for one) and `seeds` (the means of each).
    Raises:
      UserError: see `read_runs`; the folder holds another ablation; or training or evaluation fail.
      SystemExit: a signal ended a training, which is saved.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError("`seeds` must be different numbers, one at least.")
    runs = read_runs(texts, steps, photographs)
    Quality(find_protocol("paper"), metrics)  # what is wrong with them is said before training
    asked = {
        "stages": {run.name: list(run.labels) for run in runs},
        "seeds": list(seeds),
        "photographs": photographs,
        "dataset": dataset or "public benchmark",
        "metrics": list(metrics) if metrics else None,
    }
    _claim(output, asked)
    if dataset is None:
        write_benchmark(output / "benchmark", "realistic")
        dataset = str(output / "benchmark")
    found = find_dataset(dataset, data)
    results: dict[str, dict[int, Path]] = {run.name: {} for run in runs}
    reports: dict[str, dict[int, dict[str, Any]]] = {run.name: {} for run in runs}
    for seed in seeds:  # all runs with one seed make a table already
        for run in runs:
            folder = output / run.name / f"seed{seed}"
            if not quiet:
                print(f"{run.name}, seed {seed}")
            results[run.name][seed] = result = train_run(run, seed, folder, quiet)
            file = folder / "evaluation.json"
            if not file.is_file():
                if run.restores:
                    made = evaluate_restoration(
                        [str(result)], dataset, data, metrics=metrics, quiet=quiet
                    )
                else:
                    high = [(path, Path(name)) for name, path in found.high.items()]
                    made = evaluate_vaes([result], high, dataset, metrics=metrics, quiet=quiet)
                with atomic_file(file) as temporary:
                    write_json(temporary, made)
            reports[run.name][seed] = read_json(file)
    rows = [_row(run, results[run.name], reports[run.name]) for run in runs]
    first = reports[runs[0].name][seeds[0]]
    report = {
        **asked,
        "images": len(found.high),
        "protocol": first["protocol"],
        "versions": first["versions"],
        "weights": first["weights"],
        "notes": sorted({n for r in reports.values() for one in r.values() for n in one["notes"]}),
        "runs": rows,
    }
    spreadsheet = [
        {"run": row["name"], "seed": seed, **values}
        for row in rows
        for seed, values in row["seeds"].items()
    ]
    write_reports(output, report, comparison_table(report), spreadsheet)
    _write_curves(output, runs, seeds)
    return report


def _claim(output: Path, asked: Mapping[str, Any]) -> None:
    """Makes the folder this ablation's."""
    file = output / "ablation.json"
    if not file.is_file():
        with atomic_file(file) as temporary:
            write_json(temporary, asked)
    elif read_json(file) != asked:
        raise UserError(
            f"`output` {output} holds another ablation ({file}); give the same arguments to resume "
            "it, or choose another folder."
        )


def _row(
    run: Run, results: Mapping[int, Path], reports: Mapping[int, Mapping[str, Any]]
) -> dict[str, Any]:
    seeds = {
        seed: report["methods" if run.restores else "vaes"][0]["mean"]
        for seed, report in reports.items()
    }
    measured = next(iter(seeds.values()))
    names = [name for name in SHOWN if name in measured]
    columns = {name: [values[name] for values in seeds.values()] for name in names}
    complete = {name: values for name, values in columns.items() if None not in values}
    cost = _cost(next(iter(results.values())), run.restores)
    return {
        "name": run.name,
        "stages": list(run.labels),
        "pixels": run.budget,
        "parameters": cost.parameters,
        "multiply_adds": [cost.layers, cost.attention],
        "mean": {n: statistics.fmean(complete[n]) if n in complete else None for n in names},
        "spread": {
            n: statistics.stdev(complete[n]) if n in complete and len(seeds) > 1 else None
            for n in names
        },
        "seeds": seeds,
    }


def _cost(result: Path, restores: bool) -> Cost:
    """Of the trained networks on an image of 512 px."""
    vae = read_network_config(network_folder(result, "vae"), "vae")
    if not restores:
        return vae_cost(vae)
    unet = read_network_config(result / "unet", "unet")
    return vae_cost(vae) + unet_cost(unet, _IMAGE // vae.downsampling)


def comparison_table(report: Mapping[str, Any]) -> str:
    """A report of `compare_runs` in Markdown."""
    first, rows = report["runs"][0], []
    for row in report["runs"]:
        layers, attention = row["multiply_adds"]
        cells = [row["name"], f"{row['parameters'] / 1e6:.2f} M"]
        cells += [f"{layers / 1e9:.1f} G", f"{(layers + attention) / 1e9:.1f} G"]
        for name, value in row["mean"].items():
            decimals, spread = SHOWN[name].decimals, row["spread"][name]
            cell = "" if value is None else f"{value:.{decimals}f}"
            cells.append(cell if spread is None else f"{cell} ± {spread:.{decimals}f}")
        rows.append(cells)
    titles = ["run", "parameters", "multiply-adds", "with attention"]
    titles += metric_titles(first["mean"])
    seeds = ", ".join(map(str, report["seeds"]))
    photographs = report["photographs"] or "the configurations' own photographs"
    lines = [
        *markdown_table(titles, rows),
        "",
        f"{report['images']} images of {report['dataset']}; means over seeds {seeds}"
        f"{', ± their standard deviation' if len(report['seeds']) > 1 else ''}.",
        f"Each run saw {first['pixels'] / 1e6:.4g} million pixels of {photographs}.",
        *(f"{row['name']}: {' + '.join(row['stages'])}." for row in report["runs"]),
        f"Multiply-adds for an image of {_IMAGE} px. Protocol {report['protocol']['described']}.",
    ]
    return "\n".join(lines)


def _write_curves(output: Path, runs: Sequence[Run], seeds: Sequence[int]) -> None:
    """PSNR of validation photographs in the last stage, the mean over seeds."""
    curves = {}
    for run in runs:
        by_step: dict[int, list[float]] = {}
        for seed in seeds:
            file = output / run.name / f"seed{seed}" / str(len(run.configs)) / "metrics.jsonl"
            for record in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
                if record.get(_CURVE) is not None:
                    by_step.setdefault(record["step"], []).append(record[_CURVE])
        curves[run.name] = [(step, statistics.fmean(v)) for step, v in sorted(by_step.items())]
    with atomic_file(output / "curves.svg") as temporary:
        temporary.write_text(plot(curves, "step", "validation PSNR, dB"), encoding="utf-8")
