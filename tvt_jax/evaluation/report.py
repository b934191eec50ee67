"""What reports share: means, tables in Markdown, the written files."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tvt_jax.evaluation.quality import METRICS
from tvt_jax.files import atomic_file, write_json


def mean_values(rows: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """Means of the metrics over images; None where a value is missing."""
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return {k: None if None in v else sum(v) / len(v) for k, v in columns.items()}


def table_cell(value: float | None, decimals: int) -> str:
    """A figure in a table; nothing where there is none."""
    return "" if value is None else f"{value:.{decimals}f}"


def metric_cells(values: Mapping[str, float | None], metrics: Iterable[str]) -> list[str]:
    """Figures by metric, in the metrics' order and with their decimals."""
    return [table_cell(values.get(name), METRICS[name].decimals) for name in metrics]


def markdown_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table in Markdown."""
    lines = [f"| {' | '.join(cells)} |" for cells in (titles, *rows)]
    return [lines[0], "|---" * len(titles) + "|", *lines[1:]]


def write_report(file: Path, report: Mapping[str, Any]) -> None:
    """Writes a report as JSON, complete or not at all."""
    with atomic_file(file) as temporary:
        write_json(temporary, report)


def write_csv(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows of equal keys as CSV, complete or not at all."""
    with atomic_file(file) as temporary, open(temporary, "w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
