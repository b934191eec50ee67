"""EXIF, XMP and resolution: read from a file, and made right for its enlargement."""

import dataclasses
import re
import struct

from PIL import ExifTags, Image

_ORIENTATION = ExifTags.Base.Orientation
# How a TIFF file is built: strips, tiles, compression, samples, profile, XMP, IPTC, Photoshop.
# A file of another kind must not claim it, and a TIFF file says its own.
_STRUCTURE = frozenset(
    [*range(254, 260), 262, 263, 264, 265, 266, 273, 277, 278, 279, 280, 281, 284, *range(288, 294)]
    + [*range(320, 326), 330, *range(332, 348), *range(512, 522), *range(529, 533)]
    + [700, 33723, 34377, 34675]
)
_SIZES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}  # bytes, by kind of value
_LOST = "damaged EXIF data are left out"
# <... tiff:Orientation="6"> and <tiff:Orientation>6</tiff:Orientation>
_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation(?:\s*=\s*[\"']|>\s*))[2-8]")


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What a file says about its image.

    Attributes:
      exif: tags of the image, and those of the camera and of the place by their directory; without
        thumbnail.
      xmp: the packet.
      dpi: pixels an inch, (horizontal, vertical).
    """

    exif: Image.Exif | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None

    def __bool__(self) -> bool:
        """Whether there is anything but the resolution."""
        return bool(self.exif) or bool(self.xmp)


def read_metadata(image: Image.Image) -> tuple[Metadata, list[str]]:
    """Reads what Pillow found in a file; returns it, and notes about what was damaged."""
    notes, exif = [], None
    try:
        exif = upright_exif(image.getexif())
        if exif is not None:
            exif.tobytes()
    except Exception:  # of many kinds; damaged EXIF data do not make the pixels useless
        exif, notes = None, [_LOST]
    data = image.info.get("exif")
    if not notes and isinstance(data, bytes) and not _is_complete(data):
        notes = [_LOST if exif is None else "damaged EXIF data are kept as far as they can be read"]
    xmp = image.info.get("xmp")
    xmp = xmp.encode() if isinstance(xmp, str) else xmp
    return Metadata(exif, upright_xmp(xmp), _valid_dpi(image.info.get("dpi"))), notes


def _is_complete(data: bytes) -> bool:
    """Whether the directories of EXIF data and their values lie within it.

    Pillow reads as far as it can, with a warning for the whole process.
    """
    data = data.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None:
        return not data
    try:
        starts = list(struct.unpack_from(f"{order}I", data, 4))
        for depth, start in enumerate(starts):
            for number in range(*struct.unpack_from(f"{order}H", data, start)):
                entry = start + 2 + 12 * number
                tag, kind, count, value = struct.unpack_from(f"{order}HHII", data, entry)
                size = count * _SIZES.get(kind, 1)
                if size > 4 and value + size > len(data):
                    return False
                if depth == 0 and tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
                    starts.append(value)
    except struct.error:
        return False
    return True


def upright_exif(exif: Image.Exif) -> Image.Exif | None:
    """Copies tags without structure and thumbnail, for an image that was turned; None if empty."""
    copy = Image.Exif()
    copy.endian = exif.endian
    for tag, value in exif.items():
        if tag not in _STRUCTURE and tag not in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
            copy[tag] = value
    for directory in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
        tags = {t: v for t, v in exif.get_ifd(directory).items() if t != ExifTags.IFD.Interop}
        if tags:
            copy.get_ifd(directory).update(tags)
    if _ORIENTATION in copy:
        copy[_ORIENTATION] = 1
    return copy if len(copy) or copy._ifds else None


def upright_xmp(xmp: bytes | None) -> bytes | None:
    """Sets the orientation of an XMP packet to upright; None if there is no packet."""
    return _XMP_ORIENTATION.sub(rb"\g<1>1", xmp) if xmp else None


def exif_bytes(exif: Image.Exif, width: int, height: int) -> bytes:
    """Encodes tags for an image of another size, in px."""
    sized = upright_exif(exif)
    camera = sized.get_ifd(ExifTags.IFD.Exif)
    sides = {ExifTags.Base.ExifImageWidth: width, ExifTags.Base.ExifImageHeight: height}
    camera.update({tag: side for tag, side in sides.items() if tag in camera})
    return sized.tobytes()


def _valid_dpi(dpi) -> tuple[float, float] | None:
    try:
        horizontal, vertical = (float(value) for value in dpi)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    valid = all(0 < value < 65536 for value in (horizontal, vertical))  # nan and inf fail
    return (horizontal, vertical) if valid else None
