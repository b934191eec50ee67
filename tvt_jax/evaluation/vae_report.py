"""How well VAEs reconstruct a folder of images: the paper's Table 1, for any VAE and folder."""

import dataclasses
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from tvt_jax.config import LPIPS_NETS, VAE_D4, VAE_D8, VAEConfig
from tvt_jax.errors import UserError
from tvt_jax.evaluation.metric_names import MIN_SIDE
from tvt_jax.evaluation.protocol import PROTOCOLS
from tvt_jax.evaluation.quality import lpips_sha256, versions
from tvt_jax.evaluation.reconstruction import reconstruct
from tvt_jax.evaluation.report import markdown_table, mean_values, table_cell, write_reports
from tvt_jax.images import read_image
from tvt_jax.metrics.lpips import lpips
from tvt_jax.metrics.psnr import psnr
from tvt_jax.metrics.ssim import ssim
from tvt_jax.models.networks import Network
from tvt_jax.progress import progress
from tvt_jax.weights.lpips import load_lpips
from tvt_jax.weights.model_folder import load_network, network_folder

_BATCH_PIXELS = 2**20  # small images of one size go through the networks together

# Columns: key in the report, title, decimals.
COLUMNS = (
    ("psnr_y", "PSNR-Y", 2),
    ("ssim_y", "SSIM-Y", 4),
    ("psnr_rgb", "PSNR-RGB", 2),
    ("ssim_rgb", "SSIM-RGB", 4),
    ("lpips_vgg16", "LPIPS-VGG", 4),
    ("lpips_alexnet", "LPIPS-Alex", 4),
)
PROTOCOL = {
    "reconstruction": "mean of the posterior, float32, 8-bit RGB in and out; padded by reflection "
    "to a multiple of the downsampling, and cut again",
    "psnr_y, ssim_y": PROTOCOLS["classic"].described(),
    "psnr_rgb, ssim_rgb": "RGB, nothing cut, mean of the channels",
    "ssim": "Gaussian windows of 11x11 px, sigma 1.5, inside of the image; data range 255",
    "lpips": "with version 0.1 of the weights, whole 8-bit RGB image",
    "mean": "over the images",
}
# Table 1: PSNR, SSIM, LPIPS on Urban100. The text does not tell channel, border and LPIPS network.
PAPER = {"VAE-D8": (VAE_D8, (25.29, 0.7656, 0.0659)), "VAE-D4": (VAE_D4, (32.35, 0.9290, 0.0230))}


def evaluate_vaes(
    models: Sequence[Path],
    found: Sequence[tuple[Path, Path]],
    source: str,
    output: Path | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Reconstructs all images with all VAEs and measures what is lost.

    Args:
      models: VAE folders, or model folders around them (`vae/`).
      found: image files, each with its name.
      source: what to call them.
      output: folder for the report (`report.json`, `.csv`, `.md`).
      quiet: no progress bar, no notes.

    Returns: the report, ready for JSON: `protocol`, `versions`, `weights`, `notes`, `vaes`; each
      VAE with `model`, `architecture` (`config.json`), `paper` (or None), `mean` and `images`.
      Values are None where a metric was not computed or is infinite.
    Raises:
      UserError: a folder is missing or damaged, or no image can be read.
    """
    if not models:
        raise UserError("`model` names no VAE.")
    vaes = [
        (str(model), load_network(network_folder(model, "vae"), "vae", jnp.float32, jnp.float32))
        for model in models
    ]
    nets, weights, notes = {}, {}, []
    for net in LPIPS_NETS:
        try:
            nets[net] = load_lpips(net)
            weights[f"lpips-{net}"] = lpips_sha256(net)
        except UserError as error:
            notes.append(f"no LPIPS with {net}: {error}")
    rows, failed = [], {}
    for model, vae in vaes:
        images = []
        for names, batch in _batches(found, failed, f"evaluating {model}", quiet):
            images += [
                {"file": name, "width": batch.shape[2], "height": batch.shape[1], **values}
                for name, values in zip(names, _measure(vae, nets, batch), strict=False)
            ]
        if not images:
            raise UserError("; ".join(failed.values()))
        images.sort(key=lambda image: image["file"])
        rows.append(
            {
                "model": model,
                "architecture": vae.config.to_json(),
                "paper": _paper_row(vae.config),
                "mean": mean_values(images, [key for key, _, _ in COLUMNS]),
                "images": images,
            }
        )
    notes += [f"left out: {message}" for message in failed.values()]
    if not quiet:
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
    report = {
        "input": source,
        "protocol": PROTOCOL,
        "versions": versions(),
        "weights": weights,
        "notes": notes,
        "failed": sorted(failed),
        "vaes": rows,
    }
    if output is not None:
        images = [{"model": row["model"], **image} for row in rows for image in row["images"]]
        write_reports(output, report, vae_table(report), images)
    return report


def vae_table(report: Mapping[str, Any]) -> str:
    """The means of a report of `evaluate_vaes` in Markdown, the paper's figures beside them."""
    titles = ["VAE", *(title for _, title, _ in COLUMNS)]
    titles += [f"paper: {name}" for name in ("PSNR", "SSIM", "LPIPS")]
    rows = []
    for row in report["vaes"]:
        cells = [row["model"]]
        cells += [table_cell(row["mean"][key], decimals) for key, _, decimals in COLUMNS]
        paper = row["paper"] or {"psnr": None, "ssim": None, "lpips": None}
        cells += [
            table_cell(paper["psnr"], 2),
            table_cell(paper["ssim"], 4),
            table_cell(paper["lpips"], 4),
        ]
        rows.append(cells)
    figures = "; ".join(
        f"{name} {table_cell(psnr_, 2)} dB, {table_cell(ssim_, 4)}, {table_cell(lpips_, 4)}"
        for name, (_, (psnr_, ssim_, lpips_)) in PAPER.items()
    )
    lines = [
        *markdown_table(titles, rows),
        "",
        f"Means over {len(report['vaes'][0]['images'])} images of {report['input']}.",
        f"The paper's Table 1, on Urban100 (PSNR, SSIM, LPIPS): {figures}.",
        "It does not tell the colour channel, the border and the network of LPIPS.",
        f"PSNR-Y and SSIM-Y by {PROTOCOL['psnr_y, ssim_y']}; PSNR-RGB and SSIM-RGB on "
        f"{PROTOCOL['psnr_rgb, ssim_rgb']}; LPIPS {PROTOCOL['lpips']}.",
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


def _measure(
    vae: Network, nets: Mapping[str, Network], images: np.ndarray
) -> list[dict[str, float | None]]:
    """All metrics of each image of a batch [B, H, W, 3] uint8, by the keys of `COLUMNS`."""
    outputs = reconstruct(vae, images)
    distances = {net: lpips(network, outputs, images) for net, network in nets.items()}
    rows = []
    for i, (output, image) in enumerate(zip(outputs, images, strict=True)):
        values = {
            "psnr_y": PROTOCOLS["classic"].psnr(output, image),
            "ssim_y": PROTOCOLS["classic"].ssim(output, image),
            "psnr_rgb": psnr(output, image),
            "ssim_rgb": ssim(output, image),
            **{f"lpips_{net}": float(d[i]) for net, d in distances.items()},
        }
        rows.append(
            {k: v if math.isfinite(v := values.get(k, math.nan)) else None for k, _, _ in COLUMNS}
        )
    return rows


def _paper_row(config: VAEConfig) -> dict[str, Any] | None:
    """The paper's figures for an architecture, if it is one of its two."""
    for name, (architecture, figures) in PAPER.items():
        # The scaling factor belongs to the UNet and does not touch a reconstruction.
        if dataclasses.replace(config, scaling_factor=architecture.scaling_factor) == architecture:
            return {"name": name, **dict(zip(("psnr", "ssim", "lpips"), figures, strict=True))}
    return None
