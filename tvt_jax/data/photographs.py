"""Batches of random crops from a folder of photographs, by Grain.

Everything random follows from the seed and the position, so the stream can be entered at any
batch: a resumed run reads what the uninterrupted one would have read.
"""

from collections.abc import Iterator
from pathlib import Path

import grain
import jax
import numpy as np
from PIL import Image

from tvt_jax.config import DataConfig
from tvt_jax.errors import UserError

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def find_photographs(folder: Path, option: str) -> list[Path]:
    """Lists the pictures in a folder and below, sorted.

    Raises:
      UserError: the folder is missing or has none; `option` is what gave it.
    """
    if not folder.is_dir():
        raise UserError(f"{option}={folder} is not a folder.")
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES)
    if not found:
        raise UserError(f"{option}={folder} has no pictures ({', '.join(_SUFFIXES)}).")
    return found


class _CropAndFlip(grain.transforms.RandomMap):
    def __init__(self, crop: int):
        self._crop = crop

    def random_map(self, path: Path, rng: np.random.Generator) -> dict[str, np.ndarray]:
        try:
            with Image.open(path) as picture:
                image = np.asarray(picture.convert("RGB"))
        except (OSError, ValueError, SyntaxError) as error:
            raise UserError(f"{path} is not a readable picture ({error}).") from error
        height, width = image.shape[:2]
        if min(height, width) < self._crop:
            raise UserError(f"{path} is {width}x{height} px, smaller than the crop {self._crop}.")
        top, left = rng.integers(height - self._crop + 1), rng.integers(width - self._crop + 1)
        image = image[top : top + self._crop, left : left + self._crop]
        if rng.random() < 0.5:
            image = image[:, ::-1]
        return {"hr": image.astype(np.float32) / 127.5 - 1.0}


def batches(config: DataConfig, seed: int, start: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields batches without end.

    Args:
      config: folder, crop, batch size.
      seed: of order, crops and flips.
      start: number of the first batch, counted from the beginning of training.

    Yields: {"hr": [B, crop, crop, 3] float32 in [-1, 1]}, B being this process's share of
      `config.batch_size`.
    Raises:
      UserError: the folder is missing or empty, or a picture is unreadable or too small.
    """
    processes = jax.process_count()
    if config.batch_size % processes:
        raise UserError(
            f"--config.data.batch_size={config.batch_size} is not a multiple of the "
            f"{processes} processes."
        )
    dataset = (
        grain.MapDataset.source(find_photographs(Path(config.train), "--config.data.train"))
        .seed(seed)
        .shuffle()
        .repeat()
        .random_map(_CropAndFlip(config.crop))[jax.process_index() :: processes]
        .batch(config.batch_size // processes)
    )
    options = grain.ReadOptions(
        num_threads=config.threads, prefetch_buffer_size=2 * config.batch_size
    )
    return iter(dataset[start:].to_iter_dataset(options))
