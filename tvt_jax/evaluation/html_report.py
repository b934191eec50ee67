"""A report to look at: one HTML file with tables, crops side by side under a slider, differences.

Everything is in the file, images as lossless WebP; the page is `assets/report.html`.
"""

import base64
import html
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

import cv2
import numpy as np
from PIL import Image

from tvt_jax.bundled import ASSETS
from tvt_jax.evaluation.quality import SHOWN
from tvt_jax.evaluation.report import metric_cells
from tvt_jax.files import atomic_file
from tvt_jax.images import read_image

_CROP = 256  # px
_REFERENCE, _INPUT = "reference (HR)", "input (LR)"


def write_html(
    file: Path,
    table: str,
    methods: Sequence[Mapping[str, Any]],
    files: Mapping[str, Mapping[str, Path]],
    references: Mapping[str, Path],
    low: Mapping[str, Path] | None = None,
) -> None:
    """Writes the page. Of the images it has those that are best or worst by any metric.

    Args:
      file: where to.
      table: the means, in Markdown.
      methods: as reports have them: `name` and `images`, each with `name` and values by metric.
      files: the images of each method, by its name and theirs.
      references: what they should be.
      low: what they were made of, a whole factor smaller.

    Raises:
      UserError: the file cannot be written.
    """
    extremes = list(_extremes(methods))
    shown = [name for name in references if any(name in row[2:] for row in extremes)]
    values = {row["name"]: {image["name"]: image for image in row["images"]} for row in methods}
    crops, figures = {}, []
    for name in shown:
        images = {_REFERENCE: read_image(references[name])}
        images |= {label: read_image(paths[name]) for label, paths in files.items()}
        if low is not None:
            images[_INPUT] = _enlarged(read_image(low[name]), images[_REFERENCE])
        left, top = _corner(images[_REFERENCE], [images[label] for label in files])
        box = np.s_[top : top + _CROP, left : left + _CROP]
        crops[name] = {label: _data(image[box]) for label, image in images.items()}
        figures.append(_figure(name, (left, top), values))
    template = Template((ASSETS / "report.html").read_text(encoding="utf-8"))
    page = template.substitute(
        table=_markdown_as_html(table),
        extremes=_extremes_table(extremes, values),
        figures="\n".join(figures),
        # What would end the script is written otherwise.
        crops=json.dumps(crops).replace("<", "\\u003c"),
    )
    with atomic_file(file) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _extremes(methods: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, str, str]]:
    """Yields (method, metric, its best image, its worst) where there are values."""
    for row in methods:
        for metric in SHOWN:
            found = [i for i in row["images"] if i.get(metric) is not None]
            if found:
                ordered = sorted(found, key=lambda image: image[metric])  # noqa: B023
                low, high = ordered[0]["name"], ordered[-1]["name"]
                best = (high, low) if SHOWN[metric].higher_is_better else (low, high)
                yield (row["name"], metric, *best)


def _extremes_table(extremes: Sequence[tuple], values: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for method, metric, *names in extremes:
        cells = [html.escape(method), SHOWN[metric].title]
        for name in names:
            (value,) = metric_cells(values[method][name], [metric])
            cells.append(f'<a href="#{_anchor(name)}">{html.escape(name)}</a> {value}')
        rows.append(cells)
    return _table(["method", "metric", "best image", "worst image"], rows)


def _figure(name: str, corner: tuple[int, int], values: Mapping[str, Mapping[str, Any]]) -> str:
    metrics = [m for m in SHOWN if any(m in images[name] for images in values.values())]
    rows = [
        [html.escape(method), *metric_cells(images[name], metrics)]
        for method, images in values.items()
    ]
    return (
        f'<section class="image" id="{_anchor(name)}" data-name="{html.escape(name)}">'
        f"<h2>{html.escape(name)}</h2><p>{_CROP} px at ({corner[0]}, {corner[1]}), where the "
        f'methods are furthest from the reference</p><div class="viewer"></div>'
        f"{_table(['method', *(SHOWN[m].title for m in metrics)], rows)}</section>"
    )


def _corner(reference: np.ndarray, images: Sequence[np.ndarray]) -> tuple[int, int]:
    """Left and top of the crop with the largest mean error of all methods."""
    error = np.mean([np.abs(i.astype(np.float32) - reference).mean(-1) for i in images], axis=0)
    height, width = (min(_CROP, side) for side in error.shape)
    # Sums over the box to the right of and below each pixel.
    total = cv2.integral(error)
    sums = (
        total[height:, width:] - total[:-height, width:]
        - total[height:, :-width] + total[:-height, :-width]
    )  # fmt: skip
    top, left = np.unravel_index(np.argmax(sums), sums.shape)
    return int(left), int(top)


def _enlarged(image: np.ndarray, reference: np.ndarray) -> np.ndarray:
    factor = reference.shape[0] // image.shape[0]
    return image.repeat(factor, 0).repeat(factor, 1)


def _data(image: np.ndarray) -> str:
    """An image as a URL, lossless, so that differences are those of the pixels."""
    content = io.BytesIO()
    Image.fromarray(image).save(content, "WEBP", lossless=True)
    return f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}"


def _anchor(name: str) -> str:
    return f"image-{name.encode().hex()}"


def _markdown_as_html(text: str) -> str:
    """A table in Markdown and the lines after it."""
    rows, lines = [], []
    for line in text.splitlines():
        if line.startswith("| "):
            rows.append([html.escape(cell.strip()) for cell in line.strip("|").split("|")])
        elif line and not line.startswith("|---"):
            lines.append(f"<p>{html.escape(line)}</p>")
    return _table(rows[0], rows[1:]) + "".join(lines)


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{title}</th>" for title in titles)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
