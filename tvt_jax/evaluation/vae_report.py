"""How well VAEs reconstruct a folder of images: the paper's Table 1, for any VAE and folder."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from tvt_jax.config import VAE_D4, VAE_D8, VAEConfig
from tvt_jax.errors import UserError
from tvt_jax.evaluation.metric_names import MIN_SIDE
from tvt_jax.evaluation.protocol import find_protocol
from tvt_jax.evaluation.quality import Quality
from tvt_jax.evaluation.reconstruction import reconstruct
from tvt_jax.evaluation.report import (
    markdown_table,
    mean_values,
    metric_cells,
    metric_titles,
    table_cell,
    write_reports,
)
from tvt_jax.images import read_image
from tvt_jax.progress import progress
from tvt_jax.weights.model_folder import load_network, network_folder

_BATCH_PIXELS = 2**20  # small images of one size go through the networks together
_RECONSTRUCTION = (
    "mean of the posterior, float32, 8-bit RGB in and out; padded by reflection to a multiple of "
    "the downsampling, and cut again"
)
# Table 1: PSNR, SSIM, LPIPS on Urban100. The text does not tell channel, border and LPIPS network.
_FIGURES = ("psnr", "ssim", "lpips")
PAPER = {"VAE-D8": (VAE_D8, (25.29, 0.7656, 0.0659)), "VAE-D4": (VAE_D4, (32.35, 0.9290, 0.0230))}


def evaluate_vaes(
    models: Sequence[Path],
    found: Sequence[tuple[Path, Path]],
    source: str,
    protocol: str = "paper",
    metrics: Sequence[str] | None = None,
    output: Path | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Reconstructs all images with all VAEs and measures what is lost.

    Args:
      models: VAE folders, or model folders around them (`vae/`).
      found: image files, each with its name.
      source: what to call them.
      protocol: of `PROTOCOLS`.
      metrics: names, of `quality.METRICS`; default those of the protocol.
      output: folder for the report (`report.json`, `.csv`, `.md`).
      quiet: no progress bar, no notes.

    Returns: the report, ready for JSON: `protocol`, `versions`, `weights`, `notes`, `failed`,
      `vaes`; each VAE with `model`, `architecture` (`config.json`), `paper` (or None), `mean` and
      `images`. Values are None where a metric was not computed or is infinite.
    Raises:
      UserError: a folder is missing or damaged, a name is unknown, or no image can be read.
    """
    if not models:
        raise UserError("`model` names no VAE.")
    quality = Quality(find_protocol(protocol), metrics)
    vaes = [
        (str(model), load_network(network_folder(model, "vae"), "vae", jnp.float32, jnp.float32))
        for model in models
    ]
    rows, failed = [], {}
    for model, vae in vaes:
        images = []
        for names, batch in _batches(found, failed, f"evaluating {model}", quiet):
            for name, result, image in zip(names, reconstruct(vae, batch), batch, strict=False):
                size = {"width": image.shape[1], "height": image.shape[0]}
                images.append({"name": name, **size, **quality.measure(result, image)})
        if not images:
            raise UserError("; ".join(failed.values()))
        images.sort(key=lambda image: image["name"])
        rows.append(
            {
                "model": model,
                "architecture": vae.config.to_json(),
                "paper": _paper_row(vae.config),
                "mean": mean_values(images, quality.columns),
                "images": images,
            }
        )
    quality.notes += [f"left out: {message}" for message in failed.values()]
    if not quiet:
        quality.print_notes()
    report = {
        "input": source,
        **quality.report(),
        "reconstruction": _RECONSTRUCTION,
        "failed": sorted(failed),
        "vaes": rows,
    }
    if output is not None:
        images = [{"model": row["model"], **image} for row in rows for image in row["images"]]
        write_reports(output, report, vae_table(report), images)
    return report


def vae_table(report: Mapping[str, Any]) -> str:
    """The means of a report of `evaluate_vaes` in Markdown, the paper's figures beside them."""
    metrics = list(report["vaes"][0]["mean"])
    titles = ["VAE", *metric_titles(metrics)]
    titles += [f"paper: {name}" for name in ("PSNR", "SSIM", "LPIPS")]
    rows = []
    for row in report["vaes"]:
        paper = row["paper"] or {"psnr": None, "ssim": None, "lpips": None}
        cells = [table_cell(paper[name], 2 if name == "psnr" else 4) for name in _FIGURES]
        rows.append([row["model"], *metric_cells(row["mean"], metrics), *cells])
    figures = "; ".join(
        f"{name} {table_cell(psnr, 2)} dB, {table_cell(ssim, 4)}, {table_cell(lpips, 4)}"
        for name, (_, (psnr, ssim, lpips)) in PAPER.items()
    )
    lines = [
        *markdown_table(titles, rows),
        "",
        f"Means over {len(report['vaes'][0]['images'])} images of {report['input']}.",
        f"The paper's Table 1, on Urban100 (PSNR, SSIM, LPIPS): {figures}.",
        "It does not tell the colour channel, the border and the network of LPIPS.",
        f"Protocol {report['protocol']['described']}.",
    ]
    return "\n".join(lines)


def _batches(
    found: Sequence[tuple[Path, Path]], failed: dict[str, str], what: str, quiet: bool
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Yields images of one size together: (names, [B, H, W, 3] uint8).

    Images that cannot be used go to `failed` with the reason. The last batch of a size is filled
    up with copies where a full one went before, so that a program is compiled for each size only:
    B may exceed the number of names.
    """
    waiting: dict[tuple, list[tuple[str, np.ndarray]]] = {}
    full = set()

    def batch(pairs, count):
        images = [image for _, image in pairs]
        return [name for name, _ in pairs], np.stack(images + images[-1:] * (count - len(images)))

    for path, relative in progress(found, what, quiet):
        try:
            image = read_image(path)
            if min(image.shape[:2]) < MIN_SIDE:
                raise UserError(f"{path} is smaller than {MIN_SIDE} px.")
        except UserError as error:
            failed[str(relative)] = str(error)
            continue
        pairs = waiting.setdefault(image.shape, [])
        pairs.append((str(relative), image))
        if len(pairs) == _batch_size(image.shape):
            yield batch(pairs, len(pairs))
            full.add(image.shape)
            del waiting[image.shape]
    for shape, pairs in waiting.items():
        yield batch(pairs, _batch_size(shape) if shape in full else len(pairs))


def _batch_size(shape: tuple[int, ...]) -> int:
    return max(1, _BATCH_PIXELS // (shape[0] * shape[1]))


def _paper_row(config: VAEConfig) -> dict[str, Any] | None:
    """The paper's figures for an architecture, if it is one of its two."""
    for name, (architecture, figures) in PAPER.items():
        # The scaling factor belongs to the UNet and does not touch a reconstruction.
        if dataclasses.replace(config, scaling_factor=architecture.scaling_factor) == architecture:
            return {"name": name, **dict(zip(_FIGURES, figures, strict=True))}
    return None
