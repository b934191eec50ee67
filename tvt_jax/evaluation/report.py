"""What reports share: means, tables in Markdown, and the files that are written."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tvt_jax.evaluation.quality import SHOWN
from tvt_jax.files import atomic_file, write_json


def mean_values(
    rows: Sequence[Mapping[str, Any]], metrics: Iterable[str]
) -> dict[str, float | None]:
    """Means of the metrics over images; None where a value is missing."""
    columns = {name: [row[name] for row in rows] for name in metrics}
    return {k: None if None in v else sum(v) / len(v) for k, v in columns.items()}


def table_cell(value: float | None, decimals: int) -> str:
    """A figure in a table; nothing where there is none."""
    return "" if value is None else f"{value:.{decimals}f}"


def metric_titles(metrics: Iterable[str]) -> list[str]:
    """Titles of columns."""
    return [SHOWN[name].title for name in metrics]


def metric_cells(values: Mapping[str, float | None], metrics: Iterable[str]) -> list[str]:
    """Figures by metric, in the metrics' order and with their decimals."""
    return [table_cell(values.get(name), SHOWN[name].decimals) for name in metrics]


def markdown_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table in Markdown."""
    lines = [f"| {' | '.join(cells)} |" for cells in (titles, *rows)]
    return [lines[0], "|---" * len(titles) + "|", *lines[1:]]


def write_reports(
    folder: Path, report: Mapping[str, Any], table: str, rows: Sequence[Mapping[str, Any]]
) -> None:
    """Writes a report for programs, readers and spreadsheets, each file complete or not at all.

    Args:
      folder: of `report.json`, `report.md` and `report.csv`.
      report: ready for JSON.
      table: in Markdown.
      rows: of the spreadsheet, with equal keys: one for each image.
    """
    with atomic_file(folder / "report.json") as temporary:
        write_json(temporary, report)
    with atomic_file(folder / "report.md") as temporary:
        temporary.write_text(table + "\n", encoding="utf-8")
    with (
        atomic_file(folder / "report.csv") as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as out,
    ):
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
