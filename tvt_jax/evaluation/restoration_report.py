"""Restoration methods side by side on a data set: quality, time, memory, legibility."""

import contextlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tvt_jax.evaluation.datasets import find_dataset
from tvt_jax.evaluation.extra_metrics import ExtraMetrics
from tvt_jax.evaluation.html_report import write_html
from tvt_jax.evaluation.legibility import Page, render_pages, text_accuracy, text_fonts
from tvt_jax.evaluation.methods import SCALE
from tvt_jax.evaluation.paper_tables import paper_rows
from tvt_jax.evaluation.protocol import find_protocol
from tvt_jax.evaluation.public_benchmark import write_benchmark, write_pair
from tvt_jax.evaluation.quality import Quality
from tvt_jax.evaluation.recogniser import Recogniser, load_recogniser
from tvt_jax.evaluation.report import (
    markdown_table,
    mean_values,
    metric_cells,
    metric_titles,
    table_cell,
    write_reports,
)
from tvt_jax.evaluation.restored import Candidate, check_candidates, restore_all
from tvt_jax.images import read_image

_DEFINITIONS = {
    "images": "512x512 crops at fixed coordinates; smaller images whole, cut to multiples of 4",
    "bicubic": "Pillow's bicubic reduction to a quarter",
    "realistic": "anisotropic Gaussian blur, sigma 0.8 to 2.0 px; to a quarter by bicubic, "
    "bilinear or box; Gaussian noise, sigma 5 to 10, 4 in 10 grey; JPEG, quality 40 to 70, 4:2:0; "
    "seeded by the CRC-32 of the name",
    "text": "characters of rendered lines that RapidOCR reads rightly; spaces do not count",
}


def evaluate_restoration(
    methods: Sequence[str],
    dataset: str | None = None,
    data: Path = Path("."),
    pred: Sequence[Path] = (),
    degradation: str = "realistic",
    protocol: str | None = None,
    metrics: Sequence[str] | None = None,
    extra: ExtraMetrics | None = None,
    text: bool = False,
    output: Path | None = None,
    html: Path | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Restores a data set with all methods and measures the results.

    Args:
      methods: names of `methods.METHODS`, and model folders.
      dataset: see `find_dataset`; default the public benchmark.
      data: where known data sets lie.
      pred: folders of images restored elsewhere, of the data set's names.
      degradation: of the public benchmark, one of `public_benchmark.DEGRADATIONS`.
      protocol: of `PROTOCOLS`; default "paper" for a data set, "classic" for the benchmark.
      metrics: default those of the protocol.
      extra: metrics of pyiqa.
      text: whether to measure the legibility of text too.
      output: folder for the report (`report.json`, `.csv`, `.md`) and the images: one folder for
        each method; of the benchmark also `hr` and `lr`.
      html: file for the report as a page to look at.
      quiet: no progress bar, no notes.

    Returns: the report, ready for JSON: `dataset`, `degradation` (or None), `protocol`, `versions`,
      `weights`, `processors`, `notes`, `recogniser` and `text_of_the_originals` (or None), `paper`
      (rows of its Table 2 by system, where they are comparable) and `methods`; each method with
      `name`, `mean`, `seconds`, `memory` (MiB) and `text` (each may be None) and `images`. Values
      are None where a metric was not computed or is infinite.
    Raises:
      UserError: a method, the data set or another name is unknown, or something that is needed is
        missing.
    """
    check_candidates(methods, pred)
    protocol = protocol or ("paper" if dataset else "classic")
    quality = Quality(find_protocol(protocol), metrics, extra)
    reader, pages = (load_recogniser(), render_pages(text_fonts())) if text else (None, {})
    with contextlib.ExitStack() as stack:
        folder = output or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        found = find_dataset(dataset, data) if dataset else write_benchmark(folder, degradation)
        low_pages = {
            name: write_pair(folder / "text", name, page.image, degradation)[0]
            for name, page in pages.items()
        }
        # All of them before the first metric: LPIPS takes the accelerator, and they run on it too.
        candidates = restore_all(methods, pred, found, folder, low_pages, quiet)
        pairs = [(c.files[name], path) for c in candidates for name, path in found.high.items()]
        values = iter(quality.measure_files(pairs, "measuring", quiet))
        rows = [
            _row(c, {name: next(values) for name in found.high}, pages, quality, reader)
            for c in candidates
        ]
        originals = {name: page.image for name, page in pages.items()}
        report = {
            "dataset": {"name": found.name, "images": len(found.high)},
            "degradation": None if dataset else degradation,
            **quality.report(),
            "definitions": _DEFINITIONS,
            "processors": os.cpu_count(),
            "recogniser": reader.name if reader else None,
            "text_of_the_originals": text_accuracy(pages, originals, reader) if reader else None,
            "paper": paper_rows(found.name) if quality.protocol.name == "paper" else {},
            "methods": rows,
        }
        if html is not None:
            files = {c.label: c.files for c in candidates}
            write_html(html, restoration_table(report), rows, files, found.high, found.low)
    if not quiet:
        quality.print_notes()
    if output is not None:
        images = [{"method": row["name"], **image} for row in rows for image in row["images"]]
        write_reports(output, report, restoration_table(report), images)
    return report


def _row(
    candidate: Candidate,
    values: Mapping[str, Mapping[str, Any]],
    pages: Mapping[str, Page],
    quality: Quality,
    reader: Recogniser | None,
) -> dict[str, Any]:
    """What a report tells of one method."""
    restored, legible = candidate.restored, None
    seconds = restored.seconds if restored else {}
    memory = restored.memory if restored else None
    if reader and restored:
        read = {name: read_image(candidate.files[name]) for name in pages}
        legible = text_accuracy(pages, read, reader)
    return {
        "name": candidate.label,
        "mean": mean_values(list(values.values()), quality.columns),
        "seconds": sum(seconds.values()) / len(seconds) if seconds else None,
        "memory": None if memory is None else memory / 2**20,
        "text": legible,
        "images": [
            {"name": name, "seconds": seconds.get(name), **row} for name, row in values.items()
        ],
    }


def restoration_table(report: Mapping[str, Any]) -> str:
    """The means of a report of `evaluate_restoration` in Markdown, the paper's beside them."""
    metrics, text = list(report["methods"][0]["mean"]), report["text_of_the_originals"]
    titles = ["method", *metric_titles(metrics), "s per image", "peak MiB"]
    titles += ["text read"] if text is not None else []
    rows = []
    for row in report["methods"]:
        cells = [row["name"], *metric_cells(row["mean"], metrics)]
        cells += [table_cell(row["seconds"], 3), table_cell(row["memory"], 0)]
        cells += ["" if row["text"] is None else f"{row['text']:.1%}"] if text is not None else []
        rows.append(cells)
    for name, values in report["paper"].items():
        cells = [f"{name} (paper)", *metric_cells(values, metrics)]
        rows.append(cells + [""] * (len(titles) - len(cells)))
    dataset, what = report["dataset"], f", {report['degradation']} degradation"
    lines = [
        *markdown_table(titles, rows),
        "",
        f"Means over {dataset['images']} images of {dataset['name']}, x{SCALE}"
        f"{what if report['degradation'] else ''}; {report['processors']} processors.",
        f"Protocol {report['protocol']['described']}.",
    ]
    if text is not None:
        lines.append(f"Text read by {report['recogniser']}; of the originals, {text:.1%} is read.")
    return "\n".join(lines)
