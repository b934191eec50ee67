"""Restoration of scene text on Real-CE: quality, and how much a recogniser reads right."""

import contextlib
import importlib.metadata
import importlib.util
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tvt_jax.errors import UserError
from tvt_jax.evaluation.datasets import check_same_names, images_by_name
from tvt_jax.evaluation.methods import check_method, restore_in_own_process
from tvt_jax.evaluation.paper_tables import TABLE3, TABLE3_METRICS
from tvt_jax.evaluation.protocol import PROTOCOLS
from tvt_jax.evaluation.quality import METRICS, Quality
from tvt_jax.evaluation.report import (
    markdown_table,
    mean_values,
    metric_cells,
    table_cell,
    write_report,
)
from tvt_jax.evaluation.restoration_report import measure_image, method_labels
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

_RECOGNISER = "rapidocr"
_SCORES = ("acc", "ned", "acc-chn", "ned-chn", "acc-eng", "ned-eng")
_DEFINITIONS = {
    "acc": "lines read exactly, of all lines",
    "ned": "1 - edit distance by the longer length, mean over lines; 0 where both are empty",
    "lines": "smallest rectangles around the annotated corners; lower case, no spaces, of English "
    "lines digits and letters only; Chinese: any character of U+4E00 to U+9FA5",
    "low resolution": "13 mm reduced to a quarter by cubic interpolation without antialiasing",
}

Recogniser = Callable[[np.ndarray], str]


def load_recogniser() -> tuple[Recogniser, str]:
    """Loads RapidOCR, recognition only.

    Returns: (a function from an image of a line, [H, W, 3] uint8, to its text; name and version).
    Raises:
      UserError: the package is not installed.
    """
    if importlib.util.find_spec(_RECOGNISER) is None:
        raise UserError(
            "reading text needs a package that is not installed: `pip install rapidocr==3.10.0 "
            "onnxruntime`."
        )
    from rapidocr import RapidOCR

    engine = RapidOCR(params={"Global.log_level": "error"})

    def read(image: np.ndarray) -> str:
        found = engine(image[..., ::-1], use_det=False, use_cls=False, use_rec=True).txts
        return "".join(found or ())

    return read, f"{_RECOGNISER} {importlib.metadata.version(_RECOGNISER)}"


def evaluate_text(
    folder: Path,
    methods: Sequence[str],
    pred: Sequence[Path] = (),
    output: Path | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Restores Real-CE's test images with all methods, measures them and reads their lines.

    Args:
      folder: Real-CE's `val`, or the folder that has it.
      methods: of `methods.METHODS`, and model folders. "bicubic" is the floor.
      pred: folders of images restored elsewhere, by Real-CE's names.
      output: folder for `report.json`, `lr`, `hr` and the restored images.
      quiet: no progress bar, no notes.

    Returns: the report, ready for JSON: `protocol`, `versions`, `weights`, `notes`, `recogniser`,
      `definitions`, `original` (scores of HR itself, the ceiling), `paper` (Table 3 by system) and
      `methods`; each with `name`, `mean`, `scores` and `images`.
    Raises:
      UserError: something is missing or does not fit.
    """
    names = [*methods, *map(str, pred)]
    if len(set(names)) < len(names) or not names:
        raise UserError("name each method once, and at least one.")
    for method in methods:
        check_method(method)
    read, recogniser = load_recogniser()
    quality, labels = Quality(PROTOCOLS["realce"]), method_labels(names)
    with contextlib.ExitStack() as stack:
        target = output or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        dataset, lines = write_realce(folder, target)
        files = {str(f): images_by_name(f, "`pred`") for f in pred}
        for name, images in files.items():
            check_same_names(name, images, dataset.name, dataset.high)
        for method in progress(methods, "restoring", quiet):
            restore_in_own_process(method, dataset.low, target / labels[method])
            files[method] = {n: target / labels[method] / f"{n}.png" for n in dataset.high}
        original = [
            reading
            for name, path in progress(dataset.high.items(), "reading HR", quiet)
            for reading in _readings(read_image(path), lines[name], read)
        ]
        rows = []
        for name in names:
            images, readings = [], []
            for image, high in progress(dataset.high.items(), f"measuring {labels[name]}", quiet):
                restored, values = measure_image(files[name][image], high, quality)
                found = _readings(restored, lines[image], read)
                readings += found
                images.append({"name": image, **values, **reading_scores(found)})
            mean = mean_values([{m: image[m] for m in quality.metrics} for image in images])
            scores = reading_scores(readings)
            rows.append({"name": labels[name], "mean": mean, "scores": scores, "images": images})
    if not quiet:
        quality.print_notes()
    report = {
        "dataset": {"name": dataset.name, "images": len(lines)},
        **quality.report(),
        "recogniser": recogniser,
        "definitions": _DEFINITIONS,
        "original": reading_scores(original),
        "paper": TABLE3,
        "methods": rows,
    }
    if output is not None:
        write_report(output / "report.json", report)
    return report


def _readings(image: np.ndarray, lines: Sequence[TextLine], read: Recogniser) -> list[Reading]:
    return [compare_reading(line, read(cut_line(image, line.corners))) for line in lines]


def text_table(report: Mapping[str, Any]) -> str:
    """A report of `evaluate_text` in Markdown, the paper's Table 3 beside it."""
    metrics = list(report["methods"][0]["mean"])
    titles = ["method", *(METRICS[name].title for name in metrics)]
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
            "and NED are of another recogniser (CRNN) and compare only among themselves. Its rows "
            "from TSRN to DiffTSR are of line crops, by all signs.",
            f"Protocol {report['protocol']['described']}.",
        ]
    )


def _score_cells(scores: Mapping[str, float | None]) -> list[str]:
    return [table_cell(scores.get(name), 4) for name in _SCORES]
