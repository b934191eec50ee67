"""Pictures that are kept for evaluation, and how to recognise them: nobody trains on them.

    python -m launch.reserved_pictures FOLDER [FOLDER ...]

prints the rows of `reserved_pictures.tsv` for all photographs in folders: first the benchmark's
packages unpacked (scikit-image 0.26.0, scikit-learn 1.9.1, matplotlib 3.11.2, scipy 1.10.1), then
Debian 12's palapeli-data, opencv-doc, lxqt-themes and cimg-doc, then the package files of the
bundled held-out photographs. Each folder's name is the package in the table.
"""

import csv
import hashlib
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from tvt_jax.cli import run
from tvt_jax.images import BadPicture, decode_picture, picture_suffixes

RESERVED = Path(__file__).with_name("reserved_pictures.tsv")
# Of 128 bits. Photographs that have nothing to do with each other differ in about 64.
MAX_DIFFERENCE = 12
_MIN_SIDE = 256  # px
_MAX_FLAT = 0.5  # share of horizontal neighbours that are equal; drawings and screenshots have more


class ReservedPicture(NamedTuple):
    """One row of the table.

    Attributes:
      package, path: where the picture comes from.
      sha256: of its file.
      dhash: 32 hexadecimal digits, of `difference_hash`.
    """

    package: str
    path: str
    sha256: str
    dhash: str


def difference_hash(pixels: np.ndarray) -> int:
    """128 bits that survive scaling, compression and small changes of colour.

    The picture is shrunk to 9x8 grey values, and 64 bits tell whether a value is above its right
    neighbour; then to 8x9, and 64 bits tell whether a value is above the one below.

    Args:
      pixels: [H, W, 3] uint8.

    Source: N. Krawetz, "Kind of Like That" (dHash).
    """
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
    wide, high = (cv2.resize(grey, size, interpolation=cv2.INTER_AREA) for size in ((9, 8), (8, 9)))
    bits = np.concatenate([wide[:, :-1] > wide[:, 1:], high[:-1] > high[1:]])
    return int.from_bytes(np.packbits(bits).tobytes())


def read_reserved(path: Path = RESERVED) -> list[ReservedPicture]:
    """Reads the table."""
    with open(path, encoding="utf-8", newline="") as file:
        return [ReservedPicture(**row) for row in csv.DictReader(file, delimiter="\t")]


def find_reserved(
    data: bytes, pixels: np.ndarray, reserved: list[ReservedPicture]
) -> ReservedPicture | None:
    """The reserved picture that a file is, or that its pixels look like; mirrored copies too.

    Args:
      data: the file.
      pixels: the same decoded, [H, W, 3] uint8.
      reserved: of `read_reserved`.
    """
    digest = hashlib.sha256(data).hexdigest()
    hashes = [difference_hash(pixels), difference_hash(pixels[:, ::-1])]
    for picture in reserved:
        bits = int(picture.dhash, 16)
        alike = min((bits ^ value).bit_count() for value in hashes) <= MAX_DIFFERENCE
        if digest == picture.sha256 or alike:
            return picture
    return None


def print_table(folders: list[Path], /) -> None:
    """Print the table of reserved pictures for the photographs in folders.

    Args:
        folders: unpacked packages, searched to the bottom; each named like its package.
    """
    print("\t".join(ReservedPicture._fields))
    known = set()
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() not in picture_suffixes() or not path.is_file():
                continue
            data = path.read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            try:
                pixels = decode_picture(data, _MIN_SIDE).pixels
            except BadPicture:
                continue
            grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
            if digest in known or (grey[:, 1:] == grey[:, :-1]).mean() > _MAX_FLAT:
                continue
            known.add(digest)
            name = path.relative_to(folder).as_posix()
            print(folder.name, name, digest, f"{difference_hash(pixels):032x}", sep="\t")


if __name__ == "__main__":
    run(print_table, prog="python -m launch.reserved_pictures")
