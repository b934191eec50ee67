"""The record of a shard: an encoded image and its metadata, as a msgpack map."""

import dataclasses

import msgpack

from tvt_jax.images import BadImage


@dataclasses.dataclass(frozen=True)
class Record:
    """One training image.

    Attributes:
      name: of the image: its input folder's name and its path in it.
      image: encoded; the file as it was, or a tile of it as PNG.
      sha256: of `image`, hexadecimal.
      width, height: in px, after the EXIF orientation was applied.
      tile: (left, top) in the image, px; None for the whole image.
      tags: of the tagger; None without one.
      lr: the encoded low-resolution image of a real pair.
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
    return msgpack.packb(dataclasses.asdict(record))


def decode_record(data: bytes) -> Record:
    """Unpacks a record.

    Raises:
      BadImage: not a complete record.
    """
    try:
        return Record(**msgpack.unpackb(data, use_list=False))
    except (ValueError, TypeError) as error:
        raise BadImage(f"the record is damaged ({error})") from error
