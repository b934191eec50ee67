"""Open photographs for training: taken out of Debian packages, checked, shrunk, and listed.

`assets/photographs/open_photographs.tsv` lists them: Debian package, path in it, licence, subject,
bits per pixel, the scale at which it is sharp, and the SHA-256 of the file.
They come from Debian 12's packages, which apt-get downloads (510 MB) and nothing installs.
"""

import csv
import hashlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from tvt_jax.bundled import ASSETS
from tvt_jax.data import storage
from tvt_jax.data.open_photographs.debian import debian_package, read_debian_package, read_rcc
from tvt_jax.data.open_photographs.reserved import ReservedImage, find_reserved, read_reserved
from tvt_jax.data.open_photographs.text_images import text_image
from tvt_jax.downloads import user_cache
from tvt_jax.errors import UserError
from tvt_jax.files import atomic_file
from tvt_jax.images import BadImage, decode_image, image_suffixes, write_image
from tvt_jax.progress import progress

PHOTOGRAPHS = ASSETS / "photographs" / "open_photographs.tsv"
LIST = "photographs.tsv"  # in the output: the images and their origins
_RCC_FOLDER = "usr/share/gcompris-qt/rcc"
_OPAQUE = 250  # of 255

Row = dict[str, str]


class Gathered(NamedTuple):
    """The result of a run.

    Attributes:
      photographs: how many are there.
      small: how many are left out because a side is too short.
      failed: one line for each that could not be used.
    """

    photographs: int
    small: int
    failed: list[str]


def read_table(path: Path) -> list[Row]:
    """Reads a table of tab-separated columns under a header."""
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def gather_photographs(
    table: list[Row],
    output: Path,
    packages: Path | None = None,
    min_bits_per_px: float = 0.0,
    min_side: int = 64,
    text: int = 0,
    seed: int = 0,
    fonts: Sequence[Path] = (),
    quiet: bool = False,
) -> Gathered:
    """Writes the photographs of a table as PNG, with a list of their origins and licences.

    An interrupted run is continued by the same call.

    Args:
      table: rows with the columns of `open_photographs.tsv`.
      output: the new folder.
      packages: folder of .deb files; missing ones are downloaded into it. None: the user's cache.
      min_bits_per_px: leave out photographs that are compressed more strongly than that.
      min_side: leave out those with a shorter side, in px as they are written.
      text: images of text to render besides.
      seed: of the text.
      fonts: font files for the text; see `text_images.fonts_of`.
      quiet: show no progress.

    Raises:
      UserError: the output holds other images, a package cannot be had, or nothing is left.
    """
    rows = [row for row in table if float(row["bits_per_px"]) >= min_bits_per_px]
    if not rows:
        raise UserError(f"min_bits_per_px={min_bits_per_px} leaves no photograph.")
    wanted = {_file_name(row): row for row in rows}
    texts = [f"text/{seed}_{number:05d}.png" for number in range(text)]
    _check_output(output, {*wanted, *texts}, min_side)
    reserved, failed = read_reserved(), []
    missing = {name: row for name, row in wanted.items() if not (output / name).is_file()}
    files = _read_all(missing, packages or user_cache() / "debian")
    for name, row, data in progress(files, "photographs", quiet, total=len(missing)):
        try:
            pixels = _checked_pixels(data, row, reserved)
            if min(pixels.shape[:2]) >= min_side:
                write_image(output / name, pixels)
        except BadImage as error:
            failed.append(f"{row['package']}: {row['path_in_package']}: {error}")
    there = {name: row for name, row in wanted.items() if (output / name).is_file()}
    if not there:
        raise UserError(f"no photograph is left{': ' if failed else ''}{some_of(failed)}.")
    listed = [_listed(output / name, name, row) for name, row in there.items()]
    photographs = [output / name for name in there]
    listed += _render_texts(output, texts, photographs, seed, fonts, quiet)
    _write_list(output / LIST, listed)
    return Gathered(len(there), len(wanted) - len(there) - len(failed), failed)


def _checked_pixels(data: bytes | None, row: Row, reserved: list[ReservedImage]) -> np.ndarray:
    """[H, W, 3] uint8 of a photograph as it is written; raises BadImage if it is not usable."""
    if data is None:
        raise BadImage("the package does not have it")
    if hashlib.sha256(data).hexdigest() != row["sha256"]:
        raise BadImage("another file than the one that was checked (SHA-256)")
    pixels = opaque_part(data)
    if found := find_reserved(data, pixels, reserved):
        raise BadImage(f"reserved for evaluation as {found.path} of {found.package}")
    return shrink(pixels, float(row["useful_scale"]))


def some_of(lines: list[str], shown: int = 5) -> str:
    """The first few lines, and how many more there are."""
    more = len(lines) - shown
    return "; ".join(lines[:shown]) + (f"; and {more} more" if more > 0 else "")


def _file_name(row: Row) -> str:
    """Where a photograph goes: PACKAGE/NAME.png, unique by the path in the package."""
    path = row["path_in_package"].split(":")[-1]
    for prefix in ("gcompris_src_activities_", "usr/share/"):
        path = path.removeprefix(prefix)
    return f"{row['package']}/{Path(path).with_suffix('').as_posix().replace('/', '_')}.png"


def _check_output(output: Path, wanted: set[str], min_side: int) -> None:
    """Images of another run must not slip into the training data."""
    if output.is_file():
        raise UserError(f"output {output} is a file, and a folder is wanted here.")
    if not output.is_dir():
        return
    for half in output.rglob(".*.partial-*"):  # of a run that was killed
        half.unlink()
    others = [
        name
        for name in storage.list_files(storage.as_path(str(output)))
        if Path(name).suffix.lower() in image_suffixes()
        and (name not in wanted or _side(output / name) < min_side)
    ]
    if others:
        raise UserError(
            f"{output} holds {len(others)} images that this run does not ask for "
            f"({others[0]}, ...); choose another folder."
        )


def _read_all(missing: dict[str, Row], packages: Path) -> Iterator[tuple[str, Row, bytes | None]]:
    """Yields each photograph's name, row and file, package by package."""
    for package in dict.fromkeys(row["package"] for row in missing.values()):
        rows = {name: row for name, row in missing.items() if row["package"] == package}
        paths = {name: _path(row) for name, row in rows.items()}
        files = read_debian_package(debian_package(package, packages), paths.values())
        resources: dict[str, dict[str, bytes]] = {}
        for name, row in rows.items():
            data, parts = files.get(paths[name]), row["path_in_package"].split(":")
            if data is not None and parts[0] == "rcc":
                if parts[1] not in resources:
                    resources = {parts[1]: read_rcc(data, parts[1])}
                data = resources[parts[1]].get(parts[2])
            yield name, row, data


def _path(row: Row) -> str:
    """Which file of the package has the photograph."""
    kind, *rest = row["path_in_package"].split(":")
    return f"{_RCC_FOLDER}/{rest[0]}" if kind == "rcc" else kind


def opaque_part(data: bytes) -> np.ndarray:
    """Decodes an image; where parts of it are transparent, the largest rectangle that is not.

    Returns: [H, W, 3] uint8.
    Raises:
      BadImage: it is damaged, or transparent all over.
    """
    pixels = decode_image(data).pixels
    with Image.open(io.BytesIO(data)) as image:
        if image.mode not in ("RGBA", "LA"):
            return pixels
        opaque = np.array(image.getchannel("A")) >= _OPAQUE
    top, left, bottom, right = largest_rectangle(opaque)
    if bottom == top:
        raise BadImage("transparent all over")
    return pixels[top:bottom, left:right]


def largest_rectangle(mask: np.ndarray) -> tuple[int, int, int, int]:
    """The largest rectangle of ones in [H, W] bool: (top, left, bottom, right)."""
    best, best_area = (0, 0, 0, 0), 0
    heights = np.zeros(mask.shape[1], int)
    for bottom, row in enumerate(mask, 1):
        heights = np.where(row, heights + 1, 0)
        # Columns not yet closed by a lower one to their right, each with its rectangle's start.
        waiting: list[tuple[int, int]] = []
        for right, height in enumerate([*heights.tolist(), 0]):
            start = right
            while waiting and waiting[-1][1] >= height:
                start, tall = waiting.pop()
                if tall * (right - start) > best_area:
                    best_area = tall * (right - start)
                    best = (bottom - tall, start, bottom, right)
            waiting.append((start, height))
    return best


def shrink(pixels: np.ndarray, scale: float) -> np.ndarray:
    """Shrinks [H, W, 3] uint8 by area averaging; `scale` is at most 1."""
    if scale == 1:
        return np.ascontiguousarray(pixels)
    height, width = pixels.shape[:2]
    size = (round(width * scale), round(height * scale))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def _render_texts(
    output: Path,
    names: list[str],
    photographs: list[Path],
    seed: int,
    fonts: Sequence[Path],
    quiet: bool,
) -> list[Row]:
    """Renders the missing images of text; each depends only on its number.

    Returns: rows for the list, of all of them.
    """
    rows = []
    for number, name in enumerate(progress(names, "text", quiet or not names)):
        pixels, used = text_image(np.random.default_rng([seed, number]), fonts, photographs)
        if not (output / name).is_file():
            write_image(output / name, pixels)
        sources = [
            path.relative_to(output).as_posix() if output in path.parents else path.name
            for path in used
        ]
        rows.append(_listed(output / name, name, {"what": f"text: {', '.join(sources)}"}))
    return rows


def _side(path: Path) -> int:
    with Image.open(path) as image:
        return min(image.size)


def _listed(path: Path, name: str, row: Row) -> Row:
    with Image.open(path) as image:
        width, height = image.size
    return {"file": name, "width": str(width), "height": str(height), **row}


def _write_list(path: Path, rows: list[Row]) -> None:
    with atomic_file(path) as temporary:
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
