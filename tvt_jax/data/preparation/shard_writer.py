"""Writing a shard: an ArrayRecord file, and a report of its content and of what was left out.

A shard depends only on its task, so any process on any machine may write it, and writing it twice
gives the same bytes. It is finished when its report exists, which is written last.
"""

import dataclasses
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from etils import epath
from PIL import Image

from tvt_jax.data import storage
from tvt_jax.data.pairs import pair_factor, reduced
from tvt_jax.data.records import Record, encode_record
from tvt_jax.data.sources import Listed, read_file
from tvt_jax.errors import UserError
from tvt_jax.images import BadImage, decode_image, encode_png

# [H, W, 3] uint8 images of any sizes -> the tags of each.
TagImages = Callable[[list[np.ndarray]], list[list[str]]]
_TAGGED_TOGETHER = 8
# A block (side in px) is flat when the standard deviation of its luma (0 to 255) is below this. Sky
# and plain walls reach 2 to 3 with a camera's grain; faint fabric is above 5.
_FLAT_BLOCK, _FLAT_DEVIATION = 32, 4.0


@dataclasses.dataclass(frozen=True)
class Filters:
    """What is stored of each image.

    Attributes:
      crop: side of the tiles in px; 0 stores images as they are, byte for byte.
      min_side: images with a shorter side are left out, px.
      max_flat: images or tiles of which a larger share is flat are left out.
      resize: larger images are shrunk until this is their shorter side, px; 0 shrinks none.
    """

    crop: int = 0
    min_side: int = 64
    max_flat: float = 1.0
    resize: int = 0


class Hashed(NamedTuple):
    """An image, and the SHA-256 of its file and of its LR image's file."""

    image: Listed
    sha256: str
    lr_sha256: str | None


@dataclasses.dataclass(frozen=True)
class ShardTask:
    """What a shard depends on.

    Attributes:
      output: folder of all shards.
      number, count: index of this shard, and how many there are.
      fingerprint: of the preparation that it belongs to.
    """

    output: str
    number: int
    count: int
    fingerprint: str
    filters: Filters
    images: tuple[Hashed, ...]

    @property
    def file(self) -> epath.Path:
        """The shard."""
        return self._base.with_suffix(".array_record")

    @property
    def report(self) -> epath.Path:
        """What is in it, and what was left out and why."""
        return self._base.with_suffix(".json")

    @property
    def _base(self) -> epath.Path:
        name = f"part-{self.number:05d}-of-{self.count:05d}"
        return storage.as_path(self.output) / "shards" / name


def finished_report(task: ShardTask) -> dict[str, Any] | None:
    """The report of a complete shard; None if the shard must be written (again)."""
    report = storage.read_json(task.report)
    if report is None or report.get("fingerprint") != task.fingerprint:
        return None
    if not task.file.exists() or task.file.stat().length != report["bytes"]:
        return None
    if storage.is_local(task.file) and _count_records(task.file) != report["record_count"]:
        return None
    return report


def _count_records(path: epath.Path) -> int | None:
    from array_record.python.array_record_module import ArrayRecordReader

    try:
        reader = ArrayRecordReader(os.fspath(path))
        count = reader.num_records()
        reader.close()
        return count
    except Exception:  # damaged: ArrayRecord has its own kinds of errors
        return None


def write_shard(task: ShardTask, tag_images: TagImages | None = None) -> None:
    """Writes a shard and its report.

    Raises:
      UserError: the folder cannot be written.
    """
    report = {
        "fingerprint": task.fingerprint,
        "images": [],
        "records": [],
        "failed": [],
        "filtered": [],
        "converted": [],
    }
    with tempfile.TemporaryDirectory() as elsewhere:
        # Beside its target, so that it can be renamed; for a bucket it is uploaded.
        folder = Path(task.file).parent if storage.is_local(task.file) else Path(elsewhere)
        temporary = folder / f".{task.file.name}.partial-{os.getpid()}"
        try:
            _write_records(temporary, _tagged(_records(task, report), tag_images), report)
            report["bytes"] = temporary.stat().st_size
            with temporary.open("rb") as file:
                report["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
            storage.move(temporary, task.file)
        except (OSError, RuntimeError) as error:
            raise UserError(f"cannot write {task.file}: {error}.") from error
        finally:
            temporary.unlink(missing_ok=True)
    storage.write_json(task.report, report)


def _write_records(path: Path, records: Iterator[Record], report: dict[str, Any]) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    # One record per group, for random access; images are already compressed.
    writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
    try:
        for record in records:
            writer.write(encode_record(record))
            entry = dataclasses.asdict(record)
            entry["bytes"] = len(entry.pop("image"))
            entry.pop("lr")
            report["records"].append(entry)
    finally:
        writer.close()
    report["record_count"] = len(report["records"])


def _tagged(
    records: Iterator[tuple[Record, np.ndarray]], tag_images: TagImages | None
) -> Iterator[Record]:
    """Fills in the tags, a few images at a time."""
    if tag_images is None:
        yield from (record for record, _ in records)
        return
    waiting = []
    for pair in records:
        waiting.append(pair)
        if len(waiting) == _TAGGED_TOGETHER:
            yield from _tag(waiting, tag_images)
            waiting = []
    if waiting:
        yield from _tag(waiting, tag_images)


def _tag(waiting: list[tuple[Record, np.ndarray]], tag_images: TagImages) -> Iterator[Record]:
    tags = tag_images([pixels for _, pixels in waiting])
    for (record, _), words in zip(waiting, tags, strict=True):
        yield dataclasses.replace(record, tags=tuple(words))


def _records(task: ShardTask, report: dict[str, Any]) -> Iterator[tuple[Record, np.ndarray]]:
    """The records of all images, with their pixels; the report gets what became of each image."""
    for hashed in task.images:
        name, count = hashed.image.name, 0
        try:
            for record, pixels in _records_of(hashed, task.filters, report):
                yield record, pixels
                count += 1
        except BadImage as error:
            report["failed"].append({"name": name, "reason": str(error)})
            continue
        except _FilteredOut as error:
            report["filtered"].append({"name": name, "reason": str(error)})
            continue
        report["images"].append({"name": name, "sha256": hashed.sha256, "records": count})


class _FilteredOut(Exception):
    """An image that the filters leave out; the message is the reason."""


def _records_of(
    hashed: Hashed, filters: Filters, report: dict[str, Any]
) -> Iterator[tuple[Record, np.ndarray]]:
    """The records of one image.

    Raises:
      BadImage, _FilteredOut: the image has no records.
    """
    image = hashed.image
    data = _read_unchanged(image.path, hashed.sha256)
    hr, conversions = decode_image(data)
    lr_data = lr = None
    factor = 1
    if image.lr is not None:
        lr_data = reduced(_read_unchanged(image.lr, hashed.lr_sha256), image.lr_reduction)
        lr = decode_image(lr_data).pixels
        factor = pair_factor(hr, lr, filters.crop)
    height, width = hr.shape[:2]
    smallest = max(filters.min_side, filters.crop)
    if min(width, height) < smallest:
        raise _FilteredOut(f"{width}x{height} px, smaller than {smallest}")
    if filters.resize and min(width, height) > filters.resize:
        hr = _shrunk(hr, filters.resize)
        height, width = hr.shape[:2]
        data = encode_png(hr)
    report["converted"] += [{"name": image.name, "reason": reason} for reason in conversions]
    if filters.crop:
        tiles = 0
        for tile in _tiles(image.name, hr, lr, factor, filters):
            yield tile
            tiles += 1
        if not tiles:
            raise _FilteredOut(f"more than {filters.max_flat:.0%} of every tile is flat")
        return
    if _flat_share(hr, filters) > filters.max_flat:
        raise _FilteredOut(f"more than {filters.max_flat:.0%} of it is flat")
    sha256 = hashlib.sha256(data).hexdigest()
    yield Record(image.name, data, sha256, width, height, lr=lr_data), hr


def _shrunk(pixels: np.ndarray, side: int) -> np.ndarray:
    """[H, W, 3] uint8 whose shorter side is `side` px, by Pillow's Lanczos filter."""
    height, width = pixels.shape[:2]
    scale = side / min(height, width)
    size = (round(width * scale), round(height * scale))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def _tiles(
    name: str, hr: np.ndarray, lr: np.ndarray | None, factor: int, filters: Filters
) -> Iterator[tuple[Record, np.ndarray]]:
    """Cuts an image into tiles that cover it with the least overlap."""
    crop = filters.crop
    rows, columns = hr.shape[:2]
    if lr is not None:
        rows, columns = (
            min(s, factor * t) for s, t in zip((rows, columns), lr.shape, strict=False)
        )
    for top in _tile_starts(rows, crop, factor):
        for left in _tile_starts(columns, crop, factor):
            tile = np.ascontiguousarray(hr[top : top + crop, left : left + crop])
            if _flat_share(tile, filters) > filters.max_flat:
                continue
            image, lr_image = encode_png(tile), None
            if lr is not None:
                y, x, side = top // factor, left // factor, crop // factor
                lr_image = encode_png(np.ascontiguousarray(lr[y : y + side, x : x + side]))
            sha256 = hashlib.sha256(image).hexdigest()
            yield Record(name, image, sha256, crop, crop, (left, top), lr=lr_image), tile


def _tile_starts(side: int, crop: int, factor: int) -> list[int]:
    count = -(-side // crop)
    if count == 1:
        return [0]
    return [number * (side - crop) // (count - 1) // factor * factor for number in range(count)]


def _flat_share(pixels: np.ndarray, filters: Filters) -> float:
    """Share of the blocks of an image that are flat; 0 if no filter asks for it."""
    if filters.max_flat >= 1:
        return 0.0
    luma = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    height, width = luma.shape
    block = min(_FLAT_BLOCK, height, width)
    flat = []
    for top in range(0, height - block + 1, block):  # row by row: a large image stays small
        strip = luma[top : top + block, : width // block * block].astype(np.float32)
        blocks = strip.reshape(block, -1, block).swapaxes(0, 1)
        flat.append(blocks.std(axis=(1, 2)) < _FLAT_DEVIATION)
    return float(np.mean(flat))


def _read_unchanged(path: str, sha256: str | None) -> bytes:
    data = read_file(path)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise BadImage(f"{path} changed while it was being prepared")
    return data
