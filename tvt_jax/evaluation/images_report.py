"""Images of one folder against those of another."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tvt_jax.evaluation.datasets import check_same_names, images_by_name
from tvt_jax.evaluation.extra_metrics import ExtraMetrics
from tvt_jax.evaluation.html_report import write_html
from tvt_jax.evaluation.protocol import find_protocol
from tvt_jax.evaluation.quality import Quality
from tvt_jax.evaluation.report import (
    markdown_table,
    mean_values,
    metric_cells,
    metric_titles,
    write_reports,
)


def compare_images(
    pred: Path,
    ref: Path,
    protocol: str = "paper",
    metrics: Sequence[str] | None = None,
    extra: ExtraMetrics | None = None,
    output: Path | None = None,
    html: Path | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Measures every image against its reference.

    Args:
      pred: a folder, searched to the bottom, or one image.
      ref: the same; images belong together that have the same path below their folders, whatever
        their suffixes. Two single images belong together whatever their names.
      protocol: of `PROTOCOLS`.
      metrics: names, of `quality.METRICS`; default those of the protocol.
      extra: metrics of pyiqa.
      output: folder for the report (`report.json`, `.csv`, `.md`).
      html: file for the report as a page to look at.
      quiet: no progress bar, no notes.

    Returns: the report, ready for JSON: `pred`, `ref`, `protocol`, `versions`, `weights`, `notes`,
      `mean`, `images`. Values are None where they are infinite or undefined.
    Raises:
      UserError: a folder is missing or has no images, an image has no counterpart, another size
        than it, or is damaged or smaller than 32 px; weights are not there.
    """
    quality = Quality(find_protocol(protocol), metrics, extra, required=True)
    pairs = _pairs(pred, ref)
    values = quality.measure_files(list(pairs.values()), "comparing", quiet)
    rows = [{"name": name, **row} for name, row in zip(pairs, values, strict=True)]
    if not quiet:
        quality.print_notes()
    report = {
        "pred": str(pred),
        "ref": str(ref),
        **quality.report(),
        "mean": mean_values(rows, quality.columns),
        "images": rows,
    }
    if html is not None:
        files, references = ({n: pair[i] for n, pair in pairs.items()} for i in (0, 1))
        methods = [{"name": pred.name, "images": rows}]
        write_html(html, images_table(report), methods, {pred.name: files}, references)
    if output is not None:
        write_reports(output, report, images_table(report), rows)
    return report


def images_table(report: Mapping[str, Any]) -> str:
    """The means of a report of `compare_images` in Markdown."""
    mean = report["mean"]
    return "\n".join(
        [
            *markdown_table(metric_titles(mean), [metric_cells(mean, mean)]),
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
