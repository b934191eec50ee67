"""Images reserved for evaluation, and how to recognise them, so that nobody trains on them."""

import csv
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from tvt_jax.bundled import ASSETS
from tvt_jax.images import BadImage, decode_image, image_suffixes

RESERVED = ASSETS / "photographs" / "reserved.tsv"
# Of 128 bits. Unrelated photographs differ in about 64.
MAX_DIFFERENCE = 12
_MIN_SIDE = 256  # px
_MAX_FLAT = 0.5  # share of horizontal neighbours that are equal; drawings and screenshots have more


class ReservedImage(NamedTuple):
    """One row of the table.

    Attributes:
      package, path: where the image comes from.
      sha256: of its file.
      dhash: 32 hexadecimal digits, of `difference_hash`.
    """

    package: str
    path: str
    sha256: str
    dhash: str


def difference_hash(pixels: np.ndarray) -> int:
    """128 bits that survive scaling, compression and small changes of colour.

    The image is shrunk to 9x8 grey values, and 64 bits tell whether a value is above its right
    neighbour; then to 8x9, and 64 bits tell whether a value is above the one below.

    Args:
      pixels: [H, W, 3] uint8.

    Source: N. Krawetz, "Kind of Like That" (dHash).
    """
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
    wide, high = (cv2.resize(grey, size, interpolation=cv2.INTER_AREA) for size in ((9, 8), (8, 9)))
    bits = np.concatenate([wide[:, :-1] > wide[:, 1:], high[:-1] > high[1:]])
    return int.from_bytes(np.packbits(bits).tobytes())


def read_reserved(path: Path = RESERVED) -> list[ReservedImage]:
    """Reads the table."""
    with open(path, encoding="utf-8", newline="") as file:
        return [ReservedImage(**row) for row in csv.DictReader(file, delimiter="\t")]


def find_reserved(
    data: bytes, pixels: np.ndarray, reserved: list[ReservedImage]
) -> ReservedImage | None:
    """The reserved image that a file is, or that its pixels look like; mirrored copies too.

    Args:
      data: the file.
      pixels: the same decoded, [H, W, 3] uint8.
      reserved: of `read_reserved`.
    """
    digest = hashlib.sha256(data).hexdigest()
    hashes = [difference_hash(pixels), difference_hash(pixels[:, ::-1])]
    for image in reserved:
        bits = int(image.dhash, 16)
        alike = min((bits ^ value).bit_count() for value in hashes) <= MAX_DIFFERENCE
        if digest == image.sha256 or alike:
            return image
    return None


def reserved_table(folders: list[Path]) -> Iterator[str]:
    """Makes the table of reserved images again: its header, then a line for each photograph.

    Args:
      folders: unpacked packages, searched to the bottom; each named like its package.
    """
    yield "\t".join(ReservedImage._fields)
    known = set()
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() not in image_suffixes() or not path.is_file():
                continue
            data = path.read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            try:
                pixels = decode_image(data, _MIN_SIDE).pixels
            except BadImage:
                continue
            grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
            if digest in known or (grey[:, 1:] == grey[:, :-1]).mean() > _MAX_FLAT:
                continue
            known.add(digest)
            name = path.relative_to(folder).as_posix()
            yield f"{folder.name}\t{name}\t{digest}\t{difference_hash(pixels):032x}"
