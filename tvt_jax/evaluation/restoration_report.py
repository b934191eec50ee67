"""Restoration methods side by side on a data set: quality, time, memory, legibility."""

import contextlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tvt_jax.errors import UserError
from tvt_jax.evaluation.datasets import Dataset, check_same_names, find_dataset, images_by_name
from tvt_jax.evaluation.legibility import (
    Page,
    Reader,
    load_reader,
    render_pages,
    text_accuracy,
    text_fonts,
)
from tvt_jax.evaluation.methods import SCALE, Restored, check_method, restore_in_own_process
from tvt_jax.evaluation.paper_tables import paper_rows
from tvt_jax.evaluation.protocol import find_protocol
from tvt_jax.evaluation.public_benchmark import write_benchmark, write_pair
from tvt_jax.evaluation.quality import METRICS, Quality
from tvt_jax.evaluation.report import (
    markdown_table,
    mean_values,
    metric_cells,
    table_cell,
    write_csv,
    write_report,
)
from tvt_jax.files import atomic_file
from tvt_jax.images import read_image
from tvt_jax.progress import progress

_DEFINITIONS = {
    "pictures": "512x512 crops at fixed coordinates; smaller images whole, cut to multiples of 4",
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
    text: bool = False,
    output: Path | None = None,
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
      text: whether to measure the legibility of text too.
      output: folder for the report (`report.json`, `.csv`, `.md`) and the images: one folder for
        each method; of the benchmark also `hr` and `lr`.
      quiet: no progress bar, no notes.

    Returns: the report, ready for JSON: `dataset`, `degradation` (or None), `protocol`, `versions`,
      `weights`, `processors`, `notes`, `text_of_the_originals` (or None), `paper` (rows of its
      Table 2 by system, where they are comparable) and `methods`; each method with `name`, `mean`,
      `seconds`, `memory` (MiB) and `text` (each may be None) and `images`. Values are None where a
      metric was not computed or is infinite.
    Raises:
      UserError: a method, the data set or another name is unknown, or something that is needed is
        missing.
    """
    names = [*methods, *map(str, pred)]
    if len(set(names)) < len(names) or not names:
        raise UserError("name each method once, and at least one.")
    for method in methods:
        check_method(method)
    labels = method_labels(names)
    quality = Quality(find_protocol(protocol or ("paper" if dataset else "classic")), metrics)
    reader, pages = (load_reader(), render_pages(text_fonts())) if text else (None, {})
    with contextlib.ExitStack() as stack:
        folder = output or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        found = find_dataset(dataset, data) if dataset else write_benchmark(folder, degradation)
        low_pages = {
            name: write_pair(folder / "text", name, page.image, degradation)[0]
            for name, page in pages.items()
        }
        files = {str(f): images_by_name(f, "`pred`") for f in pred}
        for name, images in files.items():
            check_same_names(name, images, f"the data set {found.name}", found.high)
        # All of them before the first metric: LPIPS takes the accelerator, and they run on it too.
        restored: dict[str, Restored | None] = dict.fromkeys(files)
        for method in progress(methods, "restoring", quiet):
            target = folder / labels[method]
            restored[method] = restore_in_own_process(method, found.low, target, low_pages)
            files[method] = {name: target / f"{name}.png" for name in (*found.low, *pages)}
        rows = [
            _row(labels[name], restored[name], files[name], found, pages, quality, reader, quiet)
            for name in names
        ]
    if not quiet:
        quality.print_notes()
    originals = {name: page.image for name, page in pages.items()}
    report = {
        "dataset": {"name": found.name, "images": len(found.high)},
        "degradation": None if dataset else degradation,
        **quality.report(),
        "definitions": _DEFINITIONS,
        "processors": os.cpu_count(),
        "text_of_the_originals": text_accuracy(pages, originals, reader) if text else None,
        "paper": paper_rows(found.name) if quality.protocol.name == "paper" else {},
        "methods": rows,
    }
    if output is not None:
        _write(output, report)
    return report


def _row(
    label: str,
    restored: Restored | None,
    files: Mapping[str, Path],
    dataset: Dataset,
    pages: Mapping[str, Page],
    quality: Quality,
    reader: Reader | None,
    quiet: bool,
) -> dict[str, Any]:
    """What a report tells of one method."""
    seconds = restored.seconds if restored else {}
    images = []
    for name, path in progress(dataset.high.items(), f"measuring {label}", quiet):
        _, values = measure_image(files[name], path, quality)
        images.append({"name": name, "seconds": seconds.get(name), **values})
    memory = restored.memory if restored else None
    legible = None
    if reader and restored:
        legible = text_accuracy(pages, {name: read_image(files[name]) for name in pages}, reader)
    return {
        "name": label,
        "mean": mean_values([{m: image[m] for m in quality.metrics} for image in images]),
        "seconds": sum(seconds.values()) / len(seconds) if seconds else None,
        "memory": None if memory is None else memory / 2**20,
        "text": legible,
        "images": images,
    }


def measure_image(
    file: Path, reference: Path, quality: Quality
) -> tuple[np.ndarray, dict[str, float | None]]:
    """Reads an image and its reference; returns the image and its metrics.

    Raises:
      UserError: one cannot be read, or their sizes differ.
    """
    image, wanted = read_image(file), read_image(reference)
    if image.shape != wanted.shape:
        raise UserError(
            f"{file} is {image.shape[1]}x{image.shape[0]} px and {reference} is "
            f"{wanted.shape[1]}x{wanted.shape[0]}; both must have one size."
        )
    return image, quality.measure(image, wanted)


def restoration_table(report: Mapping[str, Any]) -> str:
    """The means of a report of `evaluate_restoration` in Markdown, the paper's beside them."""
    metrics, text = list(report["methods"][0]["mean"]), report["text_of_the_originals"]
    titles = ["method", *(METRICS[name].title for name in metrics), "s per image", "peak MiB"]
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
        lines.append(f"Of the text in full resolution, {text:.1%} is read.")
    return "\n".join(lines)


def method_labels(names: Sequence[str]) -> dict[str, str]:
    """What each method is called: its name, or its folder's; in full where that is not unique."""
    short = {name: Path(name).name or name for name in names}
    taken = [*short.values(), "hr", "lr", "text"]
    return {
        name: label if taken.count(label) == 1 else name.replace("/", "_")
        for name, label in short.items()
    }


def _write(folder: Path, report: Mapping[str, Any]) -> None:
    """Writes the report for programs, spreadsheets and readers."""
    write_report(folder / "report.json", report)
    rows = [
        {"method": method["name"], **image}
        for method in report["methods"]
        for image in method["images"]
    ]
    write_csv(folder / "report.csv", rows)
    with atomic_file(folder / "report.md") as temporary:
        temporary.write_text(restoration_table(report) + "\n", encoding="utf-8")
