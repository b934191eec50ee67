"""What stands beside the pixels in PNG files, and TIFF files that Pillow does not write.

Pillow has no colours of 16 bits or floats, and no EXIF directories in compressed TIFF.
"""

import dataclasses
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin

_ROWS = 64  # a strip
_LEVEL = 5  # of zlib's compression
_INCH = 0.0254  # m


@dataclasses.dataclass(frozen=True)
class Raster:
    """What is written.

    Attributes:
      samples: [H, W, 1 to 4] uint8, uint16, int32 or float32: grey or RGB, alpha last.
      icc: the colour profile; exif: as Pillow encodes it; xmp: the packet; dpi: pixels an inch.
    """

    samples: np.ndarray
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None


def png_chunks(raster: Raster) -> list[tuple[bytes, bytes]]:
    """What a PNG file has before its pixels.

    Source: Portable Network Graphics, third edition, section 11.3.
    """
    chunks = []
    if raster.icc is not None:
        chunks.append((b"iCCP", b"ICC Profile\0\0" + zlib.compress(raster.icc)))
    if raster.dpi is not None:
        density = [round(n / _INCH) for n in raster.dpi]
        chunks.append((b"pHYs", struct.pack(">IIB", *density, 1)))
    if raster.exif is not None:
        chunks.append((b"eXIf", raster.exif.removeprefix(b"Exif\0\0")))
    if raster.xmp is not None:
        chunks.append((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + raster.xmp))
    return chunks


def write_tiff(path: Path, image: Raster) -> None:
    """Writes samples as TIFF, deflated.

    Raises ValueError above 4 GiB, where the offsets of this format end.
    Source: TIFF 6.0 and its supplement on deflate.
    """
    samples = image.samples
    if samples.nbytes >= 2**32:
        raise ValueError("more than 4 GiB")
    # Of more than 8 bits, readers know transparency of colour images only.
    if samples.shape[2] == 2 and samples.dtype != np.uint8:
        samples = samples[..., [0, 0, 0, 1]]
    height, width, channels = samples.shape
    little = samples.dtype.newbyteorder("<")
    strips = [
        zlib.compress(samples[start : start + _ROWS].astype(little).tobytes(), _LEVEL)
        for start in range(0, height, _ROWS)
    ]
    tags = TiffImagePlugin.ImageFileDirectory_v2(ifh=b"II*\0\0\0\0\0")
    for tag, value in tiff_tags(image).items():
        tags[tag] = value
    tags[TiffImagePlugin.IMAGEWIDTH], tags[TiffImagePlugin.IMAGELENGTH] = width, height
    tags[TiffImagePlugin.BITSPERSAMPLE] = (8 * samples.dtype.itemsize,) * channels
    tags[TiffImagePlugin.COMPRESSION] = 8  # deflate
    tags[TiffImagePlugin.PHOTOMETRIC_INTERPRETATION] = 2 if channels > 2 else 1
    tags[TiffImagePlugin.SAMPLESPERPIXEL] = channels
    tags[TiffImagePlugin.ROWSPERSTRIP] = _ROWS
    tags[TiffImagePlugin.SAMPLEFORMAT] = ({"u": 1, "i": 2, "f": 3}[samples.dtype.kind],) * channels
    if channels in (2, 4):
        tags[TiffImagePlugin.EXTRASAMPLES] = 2  # alpha that colours are not multiplied by
    sizes = [len(strip) for strip in strips]
    # From the end of the directory on; Pillow adds where that is.
    tags[TiffImagePlugin.STRIPOFFSETS] = tuple(int(n) for n in np.cumsum([0, *sizes[:-1]]))
    tags[TiffImagePlugin.STRIPBYTECOUNTS] = tuple(sizes)
    with path.open("wb") as file:
        tags.save(file)
        for strip in strips:
            file.write(strip)


def tiff_tags(raster: Raster) -> dict[int, Any]:
    """What a TIFF file has beside the tags that say how it is built."""
    tags: dict[int, Any] = {}
    if raster.exif is not None:
        exif = Image.Exif()
        exif.load(raster.exif)
        directories = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
        tags |= {tag: value for tag, value in exif.items() if tag not in directories}
        for directory in directories:
            if inside := dict(exif.get_ifd(directory)):
                tags[directory] = inside
    if raster.icc is not None:
        tags[TiffImagePlugin.ICCPROFILE] = raster.icc
    if raster.xmp is not None:
        tags[TiffImagePlugin.XMP] = raster.xmp
    if raster.dpi is not None:
        tags[TiffImagePlugin.RESOLUTION_UNIT] = 2  # inch
        tags[TiffImagePlugin.X_RESOLUTION], tags[TiffImagePlugin.Y_RESOLUTION] = raster.dpi
    return tags
