"""What reports share: means, tables in Markdown, versions."""

import importlib.metadata
from collections.abc import Iterable, Mapping, Sequence

import jax


def mean_values(rows: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """Means of the metrics over images; None where a value is missing."""
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return {k: None if None in v else sum(v) / len(v) for k, v in columns.items()}


def table_cell(value: float | None, decimals: int) -> str:
    """A figure in a table; nothing where there is none."""
    return "" if value is None else f"{value:.{decimals}f}"


def markdown_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table in Markdown."""
    lines = [f"| {' | '.join(cells)} |" for cells in (titles, *rows)]
    return [lines[0], "|---" * len(titles) + "|", *lines[1:]]


def versions() -> dict[str, str]:
    """What a report's figures were made with."""
    from tvt_jax import __version__

    packages = ("jax", "flax", "numpy", "opencv-python-headless", "pillow")
    return {
        "tvt_jax": __version__,
        **{name: importlib.metadata.version(name) for name in packages},
        "device": jax.devices()[0].device_kind,
    }
