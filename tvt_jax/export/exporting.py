"""A model folder to an exported one, which is compared with the model before it appears."""

from pathlib import Path

import numpy as np
from PIL import Image

from tvt_jax import __version__
from tvt_jax.bundled import DEGRADED_PHOTOGRAPH
from tvt_jax.errors import UserError
from tvt_jax.export.program import load_programs
from tvt_jax.export.saved_model import run_saved_model, write_saved_model
from tvt_jax.export.stablehlo import write_stablehlo
from tvt_jax.files import atomic_folder, sha256
from tvt_jax.images import read_image
from tvt_jax.inference.exported import ExportedUpscaler
from tvt_jax.inference.upscaler import Upscaler

FORMATS = ("saved_model", "stablehlo")
# Compilers order sums differently, and a value between two levels falls to either side. On a CPU
# the bundled model is 1 level off in both dtypes; what bfloat16 does on accelerators, where sums
# may differ by more, is not measured.
_LEVELS = {"float32": 1, "bfloat16": 4}


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
    # One after the other: each holds the weights, up to 5 GB.
    with atomic_folder(output) as folder:
        _write(folder, model, format, dtype, color_fix)
        want = _upscale(model, dtype, color_fix)
        difference = np.abs(_upscale_exported(folder, format) - want).max()
        if not difference <= _LEVELS[dtype]:
            raise UserError(
                f"the exported program is {difference} levels off this package's own result, more "
                f"than {_LEVELS[dtype]}: it is not written. Please report this with your versions."
            )


def _write(folder: Path, model: Path, format: str, dtype: str, color_fix: str) -> None:
    programs = load_programs(model, dtype, color_fix)
    about = {
        "tvt_jax": __version__,
        "dtype": dtype,
        "color_fix": color_fix,
        "prompt": programs.prompt,
        "model": model.name,
        "files_sha256": _hashes(model),
    }
    if format == "stablehlo":
        write_stablehlo(folder, model, programs, about)
    else:
        write_saved_model(folder, programs, about)


def _hashes(model: Path) -> dict[str, str]:
    files = sorted(model.rglob("*.safetensors"))
    return {str(path.relative_to(model)): sha256(path) for path in files}


def _photograph() -> np.ndarray:
    """The middle of one, [32, 32, 3] uint8: enough that attention works in several blocks."""
    return read_image(DEGRADED_PHOTOGRAPH)[48:80, 48:80]


def _upscale(model: Path, dtype: str, color_fix: str) -> np.ndarray:
    """The photograph, enlarged by 4 and restored by `Upscaler`: levels [128, 128, 3]."""
    image = Image.fromarray(_photograph())
    enlarged = image.resize((4 * image.width, 4 * image.height), Image.Resampling.BICUBIC)
    upscaler = Upscaler.from_folder(model, dtype)
    restored = upscaler.restore(np.asarray(enlarged), color_fix=color_fix, tags=())
    return np.round(np.clip(restored, 0.0, 1.0) * 255.0)


def _upscale_exported(folder: Path, format: str) -> np.ndarray:
    """The same by the files that were written."""
    images = _photograph()[None]
    if format == "stablehlo":
        return ExportedUpscaler(folder).run("upscale", images)[0]
    return run_saved_model(folder, images)[0]
