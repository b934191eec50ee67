"""Programs as StableHLO: for `jax.export`, and as portable artefacts for other runtimes."""

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jaxlib
import numpy as np

from tvt_jax.errors import UserError
from tvt_jax.export.portable import STABLEHLO_VERSION
from tvt_jax.export.program import Programs, lower
from tvt_jax.files import sha256, write_json
from tvt_jax.inference.exported import FORMAT, SIGNATURE, WEIGHTS
from tvt_jax.weights.model_folder import copy_parts
from tvt_jax.weights.tensor_files import save_tensors

# For how long jax and StableHLO promise to read their formats.
_JAX_EXPORT_DAYS, _PORTABLE_DAYS = 180, 5 * 365


def write_stablehlo(
    folder: Path, model: Path, programs: Programs, about: Mapping[str, Any]
) -> None:
    """Writes the folder that `inference/exported.py` describes.

    Args:
      folder: empty.
      model: the model folder, for its tokenizer.
      programs: what to write.
      about: the model, for signature.json.

    Raises:
      UserError: the disk is full or the folder cannot be written.
    """
    signatures = {}
    for name, program in programs.by_name.items():
        exported = lower(program, programs.weights)
        (folder / f"{name}.jax_export").write_bytes(_serialized(exported))
        (folder / f"{name}.mlirbc").write_bytes(exported.mlir_module_serialized)
        arguments = [*sorted(program.weights), *(name for name, _, _ in program.inputs)]
        signatures[name] = {
            "weights": sorted(program.weights),
            "inputs": {n: [np.dtype(t).name, _sizes(shape)] for n, shape, t in program.inputs},
            # Of the portable artefact: the index of the platform comes first.
            "arguments": ["platform", *(arguments[i] for i in exported.module_kept_var_idx)],
        }
    save_tensors(folder / WEIGHTS, {n: np.asarray(w) for n, w in programs.weights.items()})
    if "restore_with_tokens" in programs.by_name:
        copy_parts(model, folder, ("tokenizer",))
    today = datetime.datetime.now(datetime.UTC).date()
    signature = {
        "format": FORMAT,
        "model": about,
        "programs": signatures,
        "platforms": list(exported.platforms),
        "versions": versions() | {"calling_convention": exported.calling_convention_version},
        "weights_sha256": sha256(folder / WEIGHTS),
        "exported": str(today),
        "jax_export_read_until": str(today + datetime.timedelta(_JAX_EXPORT_DAYS)),
        "portable_read_until": str(today + datetime.timedelta(_PORTABLE_DAYS)),
    }
    write_json(folder / SIGNATURE, signature)


def _serialized(exported: jax.export.Exported) -> bytes:
    try:
        return exported.serialize()
    except ImportError as error:  # of flatbuffers
        raise UserError(f"{error}: pip install 'tvt-jax[export]'.") from error


def versions() -> dict[str, str]:
    """Versions of what a program is written by, and of its format."""
    return {
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "stablehlo": STABLEHLO_VERSION,
    }


def _sizes(shape: str) -> list[int | str]:
    return [int(size) if size.isdigit() else size for size in shape.split(", ")]
