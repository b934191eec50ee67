"""Pickles of numpy arrays, read without running code from them.

PyTorch's `weights_only` reader knows no such files, and needs PyTorch.
"""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from tvt_jax.errors import UserError


def _new_array(subtype, shape, dtype):
    """Stands in for numpy's `_reconstruct`: an empty array whose state the pickle then sets."""
    return np.empty(0, np.uint8)


# numpy renamed its module in version 2.
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _new_array,
    ("numpy._core.multiarray", "_reconstruct"): _new_array,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class _Refused(Exception):
    """The pickle asks for something else than an array."""


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise _Refused(f"{module}.{name}")
        return _ALLOWED[module, name]


def load_numpy_pickle(path: Path) -> Any:
    """Reads a pickle of arrays in dicts, lists and plain values.

    Raises:
      UserError: the file is missing or damaged, or wants to import anything but numpy arrays (such
        a file could run any program).
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist.")
    try:
        with open(path, "rb") as file:
            return _ArrayUnpickler(file).load()
    except _Refused as error:
        raise UserError(
            f"{path} is refused: it is a pickle that could run code (it imports {error}). "
            "Get it from a source that stores arrays only."
        ) from error
    except Exception as error:  # damaged pickles raise many kinds, none of them documented
        raise UserError(
            f"{path} is not a readable pickle of arrays; it may be truncated, download it again."
        ) from error
