"""Restoration methods side by side on the public benchmark: quality, time, memory, legibility."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tvt_jax.errors import UserError
from tvt_jax.evaluation.legibility import (
    Page,
    Reader,
    load_reader,
    render_pages,
    text_accuracy,
    text_fonts,
)
from tvt_jax.evaluation.methods import (
    SCALE,
    Restored,
    check_method,
    restore_in_own_process,
)
from tvt_jax.evaluation.protocol import METRICS, PROTOCOL, Quality
from tvt_jax.evaluation.public_benchmark import DEGRADATIONS, benchmark_images, degrade
from tvt_jax.evaluation.report import markdown_table, mean_values, table_cell, versions
from tvt_jax.images import write_image
from tvt_jax.progress import progress

_PROTOCOL = {
    **PROTOCOL,
    "pictures": "512x512 crops at fixed coordinates; smaller images whole, cut to multiples of 4",
    "bicubic": "Pillow's bicubic reduction to a quarter",
    "realistic": "anisotropic Gaussian blur, sigma 0.8 to 2.0 px; to a quarter by bicubic, "
    "bilinear or box; Gaussian noise, sigma 5 to 10, 4 in 10 grey; JPEG, quality 40 to 70, 4:2:0; "
    "seeded by the CRC-32 of the name",
    "seconds": "mean over the images, each timed once after one run of its shape",
    "memory": "peak resident memory of the method's own process, Python and libraries included",
    "text": "characters of rendered lines that RapidOCR reads rightly; spaces do not count",
}


def evaluate_restoration(
    methods: Sequence[str],
    degradation: str = "realistic",
    text: bool = False,
    output: Path | None = None,
    quiet: bool = False,
    images: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """Restores the benchmark's images with all methods and measures the results.

    Args:
      methods: names of `methods.METHODS`, and model folders.
      degradation: one of `public_benchmark.DEGRADATIONS`.
      text: whether to measure the legibility of text too.
      output: folder for the images: `hr`, `lr`, and one folder for each method.
      quiet: no progress bar, no notes.
      images: others than the benchmark's, [H, W, 3] uint8 by name, H and W multiples of 4.

    Returns: the report, ready for JSON: `degradation`, `protocol`, `versions`, `processors`,
      `notes`, `text_of_the_originals` (or None) and `methods`; each method with `name`, `mean`,
      `seconds`, `memory` (MiB, or None), `text` (or None) and `images`. Values are None where a
      metric was not computed or is infinite.
    Raises:
      UserError: a method or the degradation is unknown, or something that is needed is missing.
    """
    if degradation not in DEGRADATIONS:
        raise UserError(f"`degradation` {degradation} is not one of {', '.join(DEGRADATIONS)}.")
    if len(set(methods)) < len(methods) or not methods:
        raise UserError("name each method once, and at least one.")
    for method in methods:
        check_method(method)
    reader, pages = (load_reader(), render_pages(text_fonts())) if text else (None, {})
    high = dict(benchmark_images() if images is None else images)
    low = {name: degrade(image, name, degradation) for name, image in high.items()}
    low_pages = {name: degrade(page.image, name, degradation) for name, page in pages.items()}
    originals = {name: page.image for name, page in pages.items()}
    if output is not None:
        _write(output / "hr", {**high, **originals})
        _write(output / "lr", {**low, **low_pages})
    labels = _labels(methods)
    # All of them before the first metric: LPIPS takes the accelerator, and they run on it too.
    restored = {}
    for method in progress(methods, "restoring", quiet):
        restored[method] = restore_in_own_process(method, low, low_pages)
        if output is not None:
            _write(output / labels[method], restored[method].images)
    quality = Quality()
    rows = [
        _row(labels[method], restored[method], high, pages, quality, reader)
        for method in progress(methods, "measuring", quiet)
    ]
    if not quiet:
        quality.print_notes()
    return {
        "degradation": degradation,
        "protocol": _PROTOCOL,
        "versions": versions(),
        "processors": os.cpu_count(),
        "notes": quality.notes,
        "text_of_the_originals": text_accuracy(pages, originals, reader) if text else None,
        "methods": rows,
    }


def _row(
    label: str,
    restored: Restored,
    high: Mapping[str, np.ndarray],
    pages: Mapping[str, Page],
    quality: Quality,
    reader: Reader | None,
) -> dict[str, Any]:
    values = {name: quality.measure(restored.images[name], image) for name, image in high.items()}
    return {
        "name": label,
        "mean": mean_values(list(values.values())),
        "seconds": sum(restored.seconds.values()) / len(restored.seconds),
        "memory": None if restored.memory is None else restored.memory / 2**20,
        "text": text_accuracy(pages, restored.images, reader) if reader else None,
        "images": [
            {"name": name, "seconds": restored.seconds[name], **row} for name, row in values.items()
        ],
    }


def restoration_table(report: Mapping[str, Any]) -> str:
    """The means of a report of `evaluate_restoration` in Markdown."""
    text = report["text_of_the_originals"]
    titles = ["method", *(title for title, _ in METRICS.values()), "s per image", "peak MiB"]
    titles += ["text read"] if text is not None else []
    rows = []
    for row in report["methods"]:
        cells = [row["name"]]
        cells += [table_cell(row["mean"][name], d) for name, (_, d) in METRICS.items()]
        cells += [f"{row['seconds']:.3f}", table_cell(row["memory"], 0)]
        cells += [f"{row['text']:.1%}"] if text is not None else []
        rows.append(cells)
    images = report["methods"][0]["images"]
    lines = [
        *markdown_table(titles, rows),
        "",
        f"Means over {len(images)} images, x{SCALE}, {report['degradation']} degradation; "
        f"{report['processors']} processors.",
    ]
    if text is not None:
        lines.append(f"Of the text in full resolution, {text:.1%} is read.")
    return "\n".join(lines)


def _labels(methods: Sequence[str]) -> dict[str, str]:
    """What each method is called: its name, or its folder's; in full where that is not unique."""
    short = {method: Path(method).name or method for method in methods}
    names = list(short.values())
    taken = ("hr", "lr")
    return {
        method: name if names.count(name) == 1 and name not in taken else method.replace("/", "_")
        for method, name in short.items()
    }


def _write(folder: Path, images: Mapping[str, np.ndarray]) -> None:
    for name, image in images.items():
        write_image(folder / f"{name}.png", image)
