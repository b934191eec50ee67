"""A model folder to an exported one, which is compared with the model before it appears."""

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tvt_jax import __version__
from tvt_jax.bundled import DEGRADED_PHOTOGRAPH
from tvt_jax.errors import UserError
from tvt_jax.export.program import load_programs
from tvt_jax.export.stablehlo import write_stablehlo
from tvt_jax.files import atomic_folder
from tvt_jax.images import read_image
from tvt_jax.inference.exported import ExportedUpscaler
from tvt_jax.inference.upscaler import Upscaler

FORMATS = ("saved_model", "stablehlo")
# Compilers order sums differently, and a value between two levels falls to either side. On a CPU
# the bundled model is 1 level off in both dtypes; what bfloat16 does on accelerators, where sums
# may differ by more, is not measured.
_LEVELS = {"float32": 1, "bfloat16": 4}
_PART = np.s_[32:96, 32:96]


def export_model(model: Path, output: Path, format: str, dtype: str, color_fix: str) -> None:
    """Writes an exported model.

    Args:
      model: the model folder.
      output: the new folder; must not exist, or be empty.
      format: one of `FORMATS`.
      dtype, color_fix: as `load_programs` takes them.

    Raises:
      UserError: an argument is wrong, a package is missing, the folder cannot be written, or the
        result restores a photograph differently from `Upscaler`; nothing is left at `output`.
    """
    if format not in FORMATS:
        raise UserError(f"`format` {format} is not one of {', '.join(FORMATS)}.")
    programs = load_programs(model, dtype, color_fix)
    about = {
        "tvt_jax": __version__,
        "dtype": dtype,
        "color_fix": color_fix,
        "prompt": programs.prompt,
        "model": model.name,
        "files_sha256": _hashes(model),
    }
    with atomic_folder(output) as folder:
        if format == "stablehlo":
            write_stablehlo(folder, model, programs, about)
            upscale = functools.partial(ExportedUpscaler(folder).run, "upscale")
        else:
            from tvt_jax.export.saved_model import load_saved_model, write_saved_model

            write_saved_model(folder, programs, about)
            upscale = load_saved_model(folder)["serving_default"]
        _compare(upscale, Upscaler.from_folder(model, dtype), dtype, color_fix)


def _hashes(model: Path) -> dict[str, str]:
    files = sorted(model.rglob("*.safetensors"))
    return {
        str(path.relative_to(model)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def _compare(upscale: Callable[[Any], Any], upscaler: Upscaler, dtype: str, method: str) -> None:
    """Upscales the middle of a photograph by both, to 256 x 256 px."""
    image = read_image(DEGRADED_PHOTOGRAPH)[_PART]
    size = tuple(4 * side for side in image.shape[1::-1])
    enlarged = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    want = upscaler.restore(enlarged, color_fix=method, tags=())
    want = np.round(np.clip(want, 0.0, 1.0) * 255.0)
    difference = np.abs(upscale(image[None])[0] - want).max()
    if not difference <= _LEVELS[dtype]:
        raise UserError(
            f"the exported program is {difference} levels off this package's own result, more than "
            f"{_LEVELS[dtype]}: it is not written. Please report this with your versions."
        )
