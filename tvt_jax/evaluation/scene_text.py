"""Real-CE: scenes with text at three focal lengths, their lines of text, and how reading counts.

Source: Ma et al., "A Benchmark for Chinese-English Scene Text Image Super-resolution", and its
repository mjq11302010044/Real-CE.
"""

import re
import string
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from tvt_jax.data.pairs import reduced
from tvt_jax.errors import UserError
from tvt_jax.evaluation.datasets import Dataset
from tvt_jax.evaluation.methods import SCALE
from tvt_jax.files import atomic_file, check_is_file
from tvt_jax.images import read_image, write_image

_CHINESE = re.compile("[\u4e00-\u9fa5]")
_LATIN = frozenset(string.digits + string.ascii_lowercase)


class TextLine(NamedTuple):
    """A line of text in a scene: its corners in px of HR, [4, 2] (x, y), and what it says."""

    corners: np.ndarray
    text: str

    @property
    def language(self) -> str:
        """ "CHN" if any character is Chinese, else "ENG"."""
        return "CHN" if _CHINESE.search(self.text) else "ENG"


class Reading(NamedTuple):
    """How one line was read: whether exactly, and 1 - edit distance by the longer length."""

    exact: bool
    ned: float
    language: str


def write_realce(folder: Path, output: Path) -> tuple[Dataset, dict[str, list[TextLine]]]:
    """Writes HR and LR of Real-CE's test half as its authors' loader makes them for a factor of 4.

    HR is the 52 mm image, cut at the right and bottom to multiples of 4; LR is the 13 mm image,
    which is stored at the same size, reduced to a quarter.

    Args:
      folder: Real-CE's `val`, or the folder that has it.
      output: folder for `hr` and `lr`.

    Returns: (the data set; the lines of each image).
    Raises:
      UserError: a file is missing or cannot be read, or the images of a scene differ in size.
    """
    folder = folder / "val" if (folder / "val").is_dir() else folder
    listed = folder / "valid_list.txt"
    check_is_file(listed)
    low, high, lines = {}, {}, {}
    for file in listed.read_text(encoding="utf-8").split():
        name, near = Path(file).stem, folder / "52mm" / file
        image, far = read_image(near), folder / "13mm" / file
        height, width = (side // SCALE * SCALE for side in image.shape[:2])
        size = read_image(far).shape
        if size != image.shape:
            raise UserError(
                f"{far} is {size[1]}x{size[0]} px and {near} is {image.shape[1]}x{image.shape[0]}; "
                "both must have one size."
            )
        low[name], high[name] = output / "lr" / f"{name}.png", output / "hr" / f"{name}.png"
        write_image(high[name], image[:height, :width])
        with atomic_file(low[name]) as temporary:
            temporary.write_bytes(reduced(far.read_bytes(), SCALE))
        lines[name] = read_lines(folder / "annos" / f"{name}.txt")
    if not lines:
        raise UserError(f"{listed} names no images.")
    return Dataset("Real-CE", low, high), lines


def read_lines(path: Path) -> list[TextLine]:
    """Reads annotations: eight coordinates and a text that may have commas, a line each, in GBK.

    Raises:
      UserError: the file is missing or a line is not of that form.
    """
    check_is_file(path)
    lines = []
    for number, row in enumerate(path.read_text(encoding="gbk").splitlines(), 1):
        if not row.strip():
            continue
        fields = row.split(",", 8)
        try:
            corners = np.array(fields[:8], float).reshape(4, 2)
            lines.append(TextLine(corners, fields[8]))
        except (ValueError, IndexError) as error:
            raise UserError(f"{path}, line {number}: not eight numbers and a text.") from error
    return lines


def cut_line(image: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Cuts a line out of an image and turns it level.

    The angle of OpenCV's smallest rectangle is in (0, 90] or [-90, 0), by its version; it is turned
    by a right angle to within 45 degrees of level, which is how text is written.

    Args:
      image: [H, W, 3] uint8.
      corners: [4, 2], x and y in px; the smallest rectangle around them is cut.

    Returns: [h, w, 3] uint8, at least 1 px a side.
    """
    (x, y), (width, height), angle = cv2.minAreaRect(corners.astype(np.int32))
    if abs(angle) > 45:
        width, height, angle = height, width, angle - np.copysign(90, angle)
    size = max(int(width), 1), max(int(height), 1)
    turn = np.deg2rad(angle)
    along = np.array([np.cos(turn), np.sin(turn)])
    across = np.array([-along[1], along[0]])
    corner = np.array([x, y]) - along * width / 2 - across * height / 2
    # From px of the line to px of the image.
    matrix = np.stack([along * width / size[0], across * height / size[1], corner], axis=1)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)


def compare_reading(line: TextLine, read: str, alphabet: frozenset[str] | None = None) -> Reading:
    """Scores what a recogniser reads.

    Both are in lower case and without spaces; of an English line only digits and letters count.

    Args:
      line: what is written.
      read: what was read.
      alphabet: with it, counts as the authors do: of Chinese lines only its characters count, and
        a capital letter that is read there is wrong, for only the truth is in lower case.
    """
    english = line.language == "ENG"
    known = _LATIN if english else alphabet

    def counted(text: str, lower: bool) -> str:
        text = "".join((text.lower() if lower else text).split())
        return text if known is None else "".join(c for c in text if c in known)

    wanted, got = counted(line.text, True), counted(read, english or alphabet is None)
    longest = max(len(wanted), len(got))
    ned = (longest - edit_distance(wanted, got)) / longest if longest else 0.0
    return Reading(wanted == got, ned, line.language)


def reading_scores(readings: Iterable[Reading]) -> dict[str, float | int | None]:
    """ACC, NED and the number of lines, of all and by language; None where there are no lines."""
    readings, scores = list(readings), {}
    for suffix, languages in (("", ("CHN", "ENG")), ("-chn", ("CHN",)), ("-eng", ("ENG",))):
        chosen = [r for r in readings if r.language in languages]
        scores[f"acc{suffix}"] = sum(r.exact for r in chosen) / len(chosen) if chosen else None
        scores[f"ned{suffix}"] = sum(r.ned for r in chosen) / len(chosen) if chosen else None
        scores[f"lines{suffix}"] = len(chosen)
    return scores


def edit_distance(a: str, b: str) -> int:
    """Insertions, deletions and replacements that make one text of another (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (x != y)))
    return row[-1]
