"""`python -m tvt_jax.ablate`: trains runs that differ in one choice, and compares them."""

from pathlib import Path

from tvt_jax.cli import run
from tvt_jax.errors import UserError


def ablate(
    runs: list[str],
    output: Path,
    steps: int | None = None,
    seeds: str = "0",
    train: str | None = None,
    dataset: str | None = None,
    data: Path = Path("."),
    metrics: str | None = None,
    quiet: bool = False,
) -> None:
    """Train several configurations with equal seeds and budgets, and compare them in a table.

    The same command resumes what was interrupted. Runs that end with a VAE are measured by what
    they reconstruct, runs that end with a model by what they restore.

    Args:
        runs: [NAME=]CONFIG[@STEPS], for example T1=configs/pretrain_vae.py:T1,tiny@400. Stages that
            follow each other are joined by +, and each starts from the VAE of the one before:
            TVT=configs/stage1.py:tiny@200+configs/stage2.py:tiny@200. All must see as many pixels.
        output: folder of the runs, the comparison (JSON, CSV, Markdown) and curves.svg.
        steps: of configurations without @STEPS; default their own.
        seeds: each run is trained with each, separated by commas.
        train: folder of photographs or shards for all runs; default the configurations' own.
        dataset: to evaluate on, as in `evaluate restoration`; default the public benchmark.
        data: folder where StableSR's test sets were unpacked.
        metrics: separated by commas; default those of the protocol paper.
        quiet: print nothing but the table and errors.
    """
    from tvt_jax.ablation.comparison import compare_runs, comparison_table

    try:
        numbers = [int(seed) for seed in seeds.split(",")]
    except ValueError as error:
        raise UserError(f"`seeds` {seeds} are not numbers separated by commas.") from error
    if output.is_file():
        raise UserError(f"`output` {output} is a file, and a folder is wanted here.")
    chosen = [name.strip() for name in metrics.split(",")] if metrics else None
    report = compare_runs(
        runs, output, steps, numbers, train, dataset, data, chosen, quiet
    )  # fmt: skip
    print(comparison_table(report))


if __name__ == "__main__":
    run(ablate, prog="python -m tvt_jax.ablate")
