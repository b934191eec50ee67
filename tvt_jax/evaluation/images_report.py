"""Images of one folder against those of another."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tvt_jax.errors import UserError
from tvt_jax.evaluation.protocol import METRICS, MIN_SIDE, PROTOCOL, Quality
from tvt_jax.evaluation.report import markdown_table, mean_values, table_cell, versions
from tvt_jax.images import find_images, read_image
from tvt_jax.progress import progress

_SHOWN = 5  # names in a message


def compare_images(
    pred: Path, ref: Path, metrics: Sequence[str] = tuple(METRICS), quiet: bool = False
) -> dict[str, Any]:
    """Measures every image against its reference.

    Args:
      pred: a folder, searched to the bottom, or one image.
      ref: the same; images belong together that have the same path below their folders, whatever
        their suffixes. Two single images belong together whatever their names.
      metrics: names, of `protocol.METRICS`.
      quiet: no progress bar.

    Returns: the report, ready for JSON: `pred`, `ref`, `protocol`, `versions`, `mean`, `images`.
      Values are None where they are infinite (PSNR of equal images).
    Raises:
      UserError: a folder is missing or has no images, an image has no counterpart, another size
        than it, or is damaged or smaller than 32 px; LPIPS weights are not there.
    """
    quality = Quality(metrics, required=True)
    pairs = _pairs(pred, ref)
    rows = []
    for name, (first, second) in progress(list(pairs.items()), "comparing", quiet):
        image, reference = read_image(first), read_image(second)
        height, width = reference.shape[:2]
        if image.shape != reference.shape:
            raise UserError(
                f"{first} is {image.shape[1]}x{image.shape[0]} px and {second} is "
                f"{width}x{height}; both must have one size."
            )
        if min(height, width) < MIN_SIDE:
            raise UserError(f"{first} is smaller than {MIN_SIDE} px.")
        values = quality.measure(image, reference)
        rows.append({"file": name, "width": width, "height": height, **values})
    return {
        "pred": str(pred),
        "ref": str(ref),
        "protocol": PROTOCOL,
        "versions": versions(),
        "mean": mean_values([{m: row[m] for m in quality.metrics} for row in rows]),
        "images": rows,
    }


def images_table(report: Mapping[str, Any]) -> str:
    """The means of a report of `compare_images` in Markdown."""
    shown = {name: METRICS[name] for name in report["mean"]}
    cells = [table_cell(report["mean"][name], decimals) for name, (_, decimals) in shown.items()]
    return "\n".join(
        [
            *markdown_table([title for title, _ in shown.values()], [cells]),
            "",
            f"Means over {len(report['images'])} images of {report['pred']} against "
            f"{report['ref']}.",
        ]
    )


def _pairs(pred: Path, ref: Path) -> dict[str, tuple[Path, Path]]:
    """Path of an image and of its reference, by their common name."""
    if pred.is_file() and ref.is_file():
        return {pred.name: (find_images(pred, "`pred`")[0][0], find_images(ref, "`ref`")[0][0])}
    predictions, references = _by_name(pred, "`pred`"), _by_name(ref, "`ref`")
    for folder, there, parameter, here in (
        (ref, references, "`pred`", predictions),
        (pred, predictions, "`ref`", references),
    ):
        missing = sorted(set(here) - set(there))
        if missing:
            names = ", ".join(missing[:_SHOWN])
            more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
            raise UserError(
                f"{folder} has no counterpart of these images of {parameter}: {names}{more}."
            )
    return {name: (path, references[name]) for name, path in predictions.items()}


def _by_name(folder: Path, parameter: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path, relative in find_images(folder, parameter):
        name = relative.with_suffix("").as_posix()
        if name in found:
            raise UserError(f"{found[name]} and {path} have one name; keep one of them.")
        found[name] = path
    return found
