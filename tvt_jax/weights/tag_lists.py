"""The tags of a tagger's folder, and the probability that each must exceed."""

from pathlib import Path

import numpy as np

from tvt_jax.errors import UserError

TAG_LIST = "ram_tag_list.txt"
THRESHOLDS = "ram_tag_list_threshold.txt"
TAG_LIST_SOURCE = "ram/data/ of github.com/xinyu1205/recognize-anything"


def read_tag_lists(folder: Path, num_classes: int) -> tuple[tuple[str, ...], np.ndarray]:
    """Reads the tags and their thresholds.

    Returns: (K names, [K] float32 probabilities that a tag must exceed), K = `num_classes`.
    Raises:
      UserError: a file is missing, not readable, or of another length.
    """
    names = _lines(folder, TAG_LIST, num_classes)
    try:
        thresholds = np.array([float(line) for line in _lines(folder, THRESHOLDS, num_classes)])
    except ValueError as error:
        raise UserError(f"{folder / THRESHOLDS} is not a list of numbers ({error}).") from error
    return tuple(names), thresholds.astype(np.float32)


def _lines(folder: Path, name: str, num_classes: int) -> list[str]:
    path = folder / name
    if not path.is_file():
        raise UserError(f"{folder} has no {name}; take it from {TAG_LIST_SOURCE}.")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a readable text file ({error}).") from error
    if len(lines) != num_classes:
        raise UserError(
            f"{path} has {len(lines)} lines, and the tagger has {num_classes} classes; take the "
            f"file that belongs to the checkpoint, for the released one from {TAG_LIST_SOURCE}."
        )
    return lines
