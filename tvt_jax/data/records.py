"""The record of an ArrayRecord shard: an encoded picture and what belongs to it. No pickle.

Layout: 4 bytes `TVT1`, the header's length as a little-endian uint32, the header as UTF-8 JSON,
the encoded picture, and the encoded LR picture of a pair if there is one.
"""

import dataclasses
import json
import struct

_MAGIC = b"TVT1"
_PREFIX = struct.Struct("<4sI")


class BadRecord(Exception):
    """Bytes that are not a whole record of a known version."""


@dataclasses.dataclass(frozen=True)
class Record:
    """One training picture.

    Attributes:
      name: of the picture: its input folder's name and its path in it.
      image: encoded; the file as it was, or a tile of it as PNG.
      sha256: of `image`, hexadecimal.
      width, height: in px, after the EXIF orientation was applied.
      tile: (left, top) in the picture, px; None for the whole picture.
      tags: what is seen in it; None if no tagger was asked.
      lr: the encoded low-resolution picture of a real pair.
    """

    name: str
    image: bytes
    sha256: str
    width: int
    height: int
    tile: tuple[int, int] | None = None
    tags: tuple[str, ...] | None = None
    lr: bytes | None = None


def encode_record(record: Record) -> bytes:
    """Packs a record. Equal records give equal bytes."""
    header = dataclasses.asdict(record)
    image, lr = header.pop("image"), header.pop("lr")
    header["image_bytes"] = len(image)
    header["lr_bytes"] = None if lr is None else len(lr)
    text = json.dumps(header, sort_keys=True, ensure_ascii=False).encode()
    return _PREFIX.pack(_MAGIC, len(text)) + text + image + (lr or b"")


def decode_record(data: bytes) -> Record:
    """Unpacks a record.

    Raises:
      BadRecord: not a record, of an unknown version, or not whole.
    """
    try:
        magic, length = _PREFIX.unpack_from(data)
        if magic != _MAGIC:
            raise BadRecord(f"starts with {magic!r} and not with {_MAGIC!r}")
        start = _PREFIX.size + length
        header = json.loads(data[_PREFIX.size : start])
        middle = start + header.pop("image_bytes")
        lr_bytes = header.pop("lr_bytes")
        end = middle + (lr_bytes or 0)
        if end != len(data):
            raise BadRecord(f"{len(data)} bytes instead of {end}")
        for field in ("tile", "tags"):
            if header[field] is not None:
                header[field] = tuple(header[field])
        lr = None if lr_bytes is None else data[middle:end]
        return Record(image=data[start:middle], lr=lr, **header)
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadRecord(f"damaged header ({error})") from error
