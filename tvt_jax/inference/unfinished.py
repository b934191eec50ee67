"""A restoration by tiles that can be interrupted: pixels and how far they are, on disk."""

import contextlib
import dataclasses
import hashlib
import mmap
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import jax
import numpy as np

from tvt_jax.errors import UserError
from tvt_jax.files import atomic_file
from tvt_jax.inference.norm_statistics import Statistics, Sums


@dataclasses.dataclass
class Unfinished:
    """How far a restoration is.

    Attributes:
      pixels: [H, W, 3], the output; in memory, or a file that is mapped into it.
      sweep: 0 measures the statistics, later ones write the pixels.
      tiles: how many are done in this sweep.
      statistics: that the sweep uses.
      correction: of those of the sample, by the sweeps before: a sum and a factor.
      sums: of the tiles done.
      sampled: error of the statistics of the first sweep.
      seam: the largest that was seen.
    """

    pixels: np.ndarray
    sweep: int = 0
    tiles: int = 0
    statistics: Statistics | None = None
    correction: Statistics | None = None
    sums: Sums | None = None
    sampled: float = 0.0
    seam: float = 0.0
    _map: mmap.mmap | None = None
    _folder: Path | None = None
    _fingerprint: str = ""

    @classmethod
    def open(
        cls, folder: Path, fingerprint: str, shape: tuple[int, ...], dtype: type
    ) -> "Unfinished":
        """Goes on with what is in a folder, if it has the same fingerprint, or begins there.

        Args:
          folder: made where missing. Nothing else may write to it; the caller removes it.
          fingerprint: of everything that decides the pixels.
          shape, dtype: of the pixels.

        Raises:
          UserError: the folder cannot be written, or the disk is too small.
        """
        state = _read(folder / "state.npz", fingerprint)
        path, size = folder / "pixels", int(np.prod(shape)) * np.dtype(dtype).itemsize
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if state is None or not path.is_file() or path.stat().st_size != size:
                state = {}
                with open(path, "wb") as file:
                    _allocate(file.fileno(), size)
            with open(path, "r+b") as file:
                mapped = mmap.mmap(file.fileno(), size)
        except OSError as error:
            raise UserError(f"cannot keep {size / 2**30:.1f} GiB in {folder}: {error}.") from error
        pixels = np.ndarray(shape, dtype, mapped)
        return cls(pixels, **state, _map=mapped, _folder=folder, _fingerprint=fingerprint)

    def correct(self, correction: Statistics) -> None:
        """Adds to the correction what a sweep found, and begins the next one."""
        if self.correction is not None:
            mean, variance = self.correction
            correction = Statistics(mean + correction.mean, variance * correction.variance)
        self.correction = correction
        self.sweep, self.tiles, self.sums, self.seam = self.sweep + 1, 0, None, 0.0

    def save(self) -> None:
        """Makes what is done so far safe, if there is a folder."""
        if self._folder is None:
            return
        self._map.flush()  # before the state that counts them
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)  # they need no memory of this process any more
        values = {name: getattr(self, name) for name in _FIELDS}
        values = {n: np.asarray(value) for n, value in values.items() if value is not None}
        with atomic_file(self._folder / "state.npz") as temporary, open(temporary, "wb") as file:
            np.savez(file, fingerprint=np.asarray(self._fingerprint), **values)


def fingerprint(decided: tuple, arrays: Iterable[np.ndarray], weights: bytes) -> str:
    """Names everything that decides the pixels of an output.

    Args:
      decided: values whose representation says all about them.
      arrays: the image and the embedding of the prompt.
      weights: as of `hash_of_weights`.
    """
    digest = hashlib.sha256(repr(decided).encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data.cast("B"))
    digest.update(weights)
    return digest.hexdigest()


def hash_of_weights(*trees: Any) -> bytes:
    """SHA-256 of trees of arrays."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(trees):
        digest.update(np.asarray(leaf).tobytes())
    return digest.digest()


_FIELDS = ("sweep", "tiles", "statistics", "correction", "sums", "sampled", "seam")


def _read(path: Path, fingerprint: str) -> dict | None:
    """The fields of the state; None where it is missing, damaged or of another image."""
    with contextlib.suppress(OSError, ValueError, KeyError, EOFError, BadZipFile):
        with np.load(path) as saved:
            if str(saved["fingerprint"]) != fingerprint:
                return None
            values = {name: saved[name] for name in saved if name != "fingerprint"}
        kinds = {"statistics": Statistics, "correction": Statistics, "sums": Sums}
        return {n: kinds[n](*x) if n in kinds else x.item() for n, x in values.items()}
    return None


def _allocate(file: int, size: int) -> None:
    """Takes the space on disk now: a full disk would end the program when the map is written."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:
        os.truncate(file, size)
