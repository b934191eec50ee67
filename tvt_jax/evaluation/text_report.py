"""Restoration of scene text on Real-CE: quality, and how much a recogniser reads right."""

import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tvt_jax.evaluation.paper_tables import TABLE3, TABLE3_METRICS
from tvt_jax.evaluation.protocol import PROTOCOLS
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
from tvt_jax.evaluation.restored import check_candidates, restore_all
from tvt_jax.evaluation.scene_text import (
    Reading,
    TextLine,
    compare_reading,
    cut_line,
    reading_scores,
    write_realce,
)
from tvt_jax.images import read_image
from tvt_jax.progress import progress

_SCORES = ("acc", "ned", "acc-chn", "ned-chn", "acc-eng", "ned-eng")
_DEFINITIONS = {
    "acc": "lines read exactly, of all lines",
    "ned": "1 - edit distance by the longer length, mean over lines; 0 where both are empty",
    "lines": "smallest rectangles around the annotated corners; lower case, no spaces, of English "
    "lines digits and letters only; Chinese: any character of U+4E00 to U+9FA5",
    "low resolution": "13 mm reduced to a quarter by cubic interpolation without antialiasing",
}


def evaluate_text(
    folder: Path,
    methods: Sequence[str],
    pred: Sequence[Path] = (),
    crnn: Path | None = None,
    output: Path | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Restores Real-CE's test images with all methods, measures them and reads their lines.

    Args:
      folder: Real-CE's `val`, or the folder that has it.
      methods: of `methods.METHODS`, and model folders. "bicubic" is the floor.
      pred: folders of images restored elsewhere, by Real-CE's names.
      crnn: folder with the recognisers of Real-CE's authors; default RapidOCR.
      output: folder for the report (`report.json`, `.csv`, `.md`), `lr`, `hr` and the restored
        images.
      quiet: no progress bar, no notes.

    Returns: the report, ready for JSON: `protocol`, `versions`, `weights`, `notes`, `recogniser`,
      `definitions`, `original` (scores of HR itself, the ceiling), `paper` (Table 3 by system) and
      `methods`; each with `name`, `mean`, `scores` and `images`.
    Raises:
      UserError: something is missing or does not fit.
    """
    check_candidates(methods, pred)
    recogniser, quality = load_recogniser(crnn), Quality(PROTOCOLS["realce"])
    with contextlib.ExitStack() as stack:
        target = output or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        dataset, lines = write_realce(folder, target)
        candidates = restore_all(methods, pred, dataset, target, quiet=quiet)

        def read(files: Mapping[str, Path], what: str) -> dict[str, list[Reading]]:
            return {
                name: _readings(read_image(files[name]), lines[name], recogniser)
                for name in progress(lines, f"reading {what}", quiet)
            }

        original, rows = read(dataset.high, "HR"), []
        for label, files, _ in candidates:
            pairs = [(files[name], path) for name, path in dataset.high.items()]
            values = quality.measure_files(pairs, f"measuring {label}", quiet)
            readings = read(files, label)
            images = [
                {"name": name, **row, **reading_scores(readings[name])}
                for name, row in zip(lines, values, strict=True)
            ]
            rows.append(
                {
                    "name": label,
                    "mean": mean_values(values, quality.columns),
                    "scores": reading_scores(r for found in readings.values() for r in found),
                    "images": images,
                }
            )
    if not quiet:
        quality.print_notes()
    report = {
        "dataset": {"name": dataset.name, "images": len(lines)},
        **quality.report(),
        "recogniser": recogniser.name,
        "definitions": _DEFINITIONS,
        "original": reading_scores(r for found in original.values() for r in found),
        "paper": TABLE3,
        "methods": rows,
    }
    if output is not None:
        images = [{"method": row["name"], **image} for row in rows for image in row["images"]]
        write_reports(output, report, text_table(report), images)
    return report


def _readings(
    image: np.ndarray, lines: Sequence[TextLine], recogniser: Recogniser
) -> list[Reading]:
    return [
        compare_reading(
            line,
            recogniser.read(cut_line(image, line.corners), line.language),
            recogniser.alphabet,
        )
        for line in lines
    ]


def text_table(report: Mapping[str, Any]) -> str:
    """A report of `evaluate_text` in Markdown, the paper's Table 3 beside it."""
    metrics = list(report["methods"][0]["mean"])
    titles = ["method", *metric_titles(metrics)]
    titles += [f"{name.upper()} ↑" for name in _SCORES]
    rows = [
        [row["name"], *metric_cells(row["mean"], metrics), *_score_cells(row["scores"])]
        for row in report["methods"]
    ]
    rows.append(["HR itself", *[""] * len(metrics), *_score_cells(report["original"])])
    for name, figures in report["paper"].items():
        values = dict(zip(TABLE3_METRICS, figures, strict=True))
        rows.append([f"{name} (paper)", *metric_cells(values, metrics), *_score_cells(values)])
    original = report["original"]
    return "\n".join(
        [
            *markdown_table(titles, rows),
            "",
            f"{report['dataset']['images']} images of {report['dataset']['name']}, "
            f"{original['lines']} lines ({original['lines-chn']} Chinese, "
            f"{original['lines-eng']} English), read by {report['recogniser']}; the paper's ACC "
            "and NED are of the CRNN of Real-CE's authors (`crnn`) and compare with no other "
            "recogniser's. Its rows from TSRN to DiffTSR are of line crops, by all signs.",
            f"Protocol {report['protocol']['described']}.",
        ]
    )


def _score_cells(scores: Mapping[str, float | None]) -> list[str]:
    return [table_cell(scores.get(name), 4) for name in _SCORES]
