"""Images of one folder against those of another."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tvt_jax.errors import UserError
from tvt_jax.evaluation.datasets import check_same_names, images_by_name
from tvt_jax.evaluation.protocol import find_protocol
from tvt_jax.evaluation.quality import METRICS, MIN_SIDE, Quality
from tvt_jax.evaluation.report import markdown_table, mean_values, metric_cells
from tvt_jax.evaluation.restoration_report import measure_image
from tvt_jax.progress import progress


def compare_images(
    pred: Path,
    ref: Path,
    protocol: str = "paper",
    metrics: Sequence[str] | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Measures every image against its reference.

    Args:
      pred: a folder, searched to the bottom, or one image.
      ref: the same; images belong together that have the same path below their folders, whatever
        their suffixes. Two single images belong together whatever their names.
      protocol: of `PROTOCOLS`.
      metrics: names, of `quality.METRICS`; default those of the protocol.
      quiet: no progress bar, no notes.

    Returns: the report, ready for JSON: `pred`, `ref`, `protocol`, `versions`, `weights`, `notes`,
      `mean`, `images`. Values are None where they are infinite or undefined.
    Raises:
      UserError: a folder is missing or has no images, an image has no counterpart, another size
        than it, or is damaged or smaller than 32 px; weights are not there.
    """
    quality = Quality(find_protocol(protocol), metrics, required=True)
    rows = []
    for name, (first, second) in progress(list(_pairs(pred, ref).items()), "comparing", quiet):
        image, values = measure_image(first, second, quality)
        height, width = image.shape[:2]
        if min(height, width) < MIN_SIDE:
            raise UserError(f"{first} is smaller than {MIN_SIDE} px.")
        rows.append({"file": name, "width": width, "height": height, **values})
    if not quiet:
        quality.print_notes()
    return {
        "pred": str(pred),
        "ref": str(ref),
        **quality.report(),
        "mean": mean_values([{m: row[m] for m in quality.metrics} for row in rows]),
        "images": rows,
    }


def images_table(report: Mapping[str, Any]) -> str:
    """The means of a report of `compare_images` in Markdown."""
    mean = report["mean"]
    return "\n".join(
        [
            *markdown_table([METRICS[name].title for name in mean], [metric_cells(mean, mean)]),
            "",
            f"Means over {len(report['images'])} images of {report['pred']} against "
            f"{report['ref']}.",
            f"Protocol {report['protocol']['described']}.",
        ]
    )


def _pairs(pred: Path, ref: Path) -> dict[str, tuple[Path, Path]]:
    """Path of an image and of its reference, by their common name."""
    predictions, references = images_by_name(pred, "`pred`"), images_by_name(ref, "`ref`")
    if pred.is_file() and ref.is_file():
        return {pred.name: (pred, ref)}
    check_same_names(str(pred), predictions, str(ref), references)
    return {name: (path, references[name]) for name, path in predictions.items()}
