"""Copies trained small networks into the package, in half precision, as the bundled model."""

from pathlib import Path

import numpy as np

from tvt_jax.bundled import ASSETS, SMALL_MODEL, SMALL_TEACHER, SMALL_UNET
from tvt_jax.errors import UserError
from tvt_jax.weights.model_folder import (
    copy_parts,
    network_folder,
    open_network,
    save_network,
    write_model_index,
)
from tvt_jax.weights.prompt_embeds import FILE as PROMPT_EMBEDS

_MOST_BYTES = 10e6  # of all weights in the package


def bundle_small_model(teacher: Path | None, unet: Path | None, model: Path | None) -> int:
    """Copies networks into the package, as float16.

    Args:
      teacher: VAE folder that configs/pretrain_vae.py:small made.
      unet: result of configs/pretrain_unet.py:small.
      model: result of configs/stage3.py:small, or a VAE of stage 2 without a UNet.

    Returns: bytes of all weights in the package.
    Raises:
      UserError: a folder is incomplete, or the weights do not fit float16 or the package.
    """
    if teacher is not None:
        _halve(network_folder(teacher, "vae"), SMALL_TEACHER, "vae")
    for source, target in ((unet, SMALL_UNET), (model, SMALL_MODEL)):
        if source is None:
            continue
        for kind in ("unet", "vae"):
            # The VAE of the small Stable Diffusion is the teacher, which is there already.
            if (source / kind).is_dir() and (kind, target) != ("vae", SMALL_UNET):
                _halve(source / kind, target / kind, kind)
        if (source / PROMPT_EMBEDS).is_file():
            copy_parts(source, target, ("scheduler", PROMPT_EMBEDS))
    if model is not None and (SMALL_MODEL / "unet").is_dir():
        write_model_index(SMALL_MODEL)
    size = sum(path.stat().st_size for path in ASSETS.rglob("*.safetensors"))
    if size > _MOST_BYTES:
        raise UserError(
            f"weights in the package: {size / 1e6:.1f} MB, more than {_MOST_BYTES / 1e6:.0f} MB."
        )
    return size


def _halve(source: Path, target: Path, kind: str) -> None:
    config, tensors = open_network(source, kind)
    too_large = [name for name in tensors if np.abs(tensors[name]).max() > 6e4]
    if too_large:
        raise UserError(f"{source}: beyond the range of float16: {', '.join(too_large)}.")
    save_network(target, kind, config, tensors, "float16")
