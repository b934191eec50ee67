"""Encoded pictures to pixels: which files are pictures, and how each kind becomes 8-bit RGB.

Training, preparation and inference read by these rules, so that a network meets the same pixels
everywhere.
"""

import functools
import io
import threading
import warnings
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

# Not photographs, or read by running another program (EPS by Ghostscript), or only stubs.
_EXCLUDED_FORMATS = frozenset("BUFR EPS FITS GRIB HDF5 IMT MCIDAS MPEG SPIDER WMF XVTHUMB".split())
_SIXTEEN_BIT_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I")
# Decoding takes up to 12 bytes a pixel. Larger pictures are decoded one at a time in a process, so
# that many threads with a few of them do not fill the memory.
_LARGE = 2**25
_one_large_picture = threading.Lock()
# Pillow warns, without naming the picture, from 89 megapixels on and of every oddity in EXIF data.
# What matters here is an error: more than 179 megapixels, pixels that cannot be decoded.
warnings.filterwarnings("ignore", module=r"PIL\.")


class BadPicture(Exception):
    """A picture that cannot be used. The message is the reason, without the picture's name."""


class Picture(NamedTuple):
    """A decoded picture.

    Attributes:
      pixels: [H, W, 3] uint8, RGB.
      conversions: what was done to make it so, for the log: "greyscale to RGB", ...
    """

    pixels: np.ndarray
    conversions: tuple[str, ...]


@functools.cache
def picture_suffixes() -> frozenset[str]:
    """Suffixes, in lower case with their dot, of the formats that Pillow reads here."""
    extensions = Image.registered_extensions()
    return frozenset(suffix for suffix, name in extensions.items() if name in _formats())


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in Image.OPEN if name not in _EXCLUDED_FORMATS)


def decode_picture(data: bytes, min_side: int = 1) -> Picture:
    """Decodes a picture.

    The EXIF orientation is applied. Greyscale, palette and CMYK become RGB. 16 bits are scaled to
    8. Transparency is dropped. Of an animation, the first frame is taken. Refused are
    floating-point pixels (nothing says which value is white), CIELAB and above 179 megapixels.

    Args:
      data: the encoded file.
      min_side: in px; a picture with a shorter side is refused before it is decoded.

    Raises:
      BadPicture: the picture is damaged, too small, too large or of a refused kind.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_formats()) as picture:
            width, height = picture.size
            if min(width, height) < min_side:
                raise BadPicture(f"{width}x{height} px, smaller than {min_side}")
            if width * height > _LARGE:
                with _one_large_picture:
                    return _to_rgb(picture)
            return _to_rgb(picture)
    except BadPicture:
        raise
    except Image.DecompressionBombError as error:
        raise BadPicture(f"too many pixels: {error}") from error
    except MemoryError as error:
        raise BadPicture("not enough memory to decode it") from error
    except Exception as error:  # Pillow's readers raise many kinds when a file is damaged
        reason = " ".join(str(error).split()) or type(error).__name__
        # The text names the object in memory, which is no use to anybody.
        reason = "unknown format or damaged" if "cannot identify" in reason else reason
        raise BadPicture(reason) from error


def _to_rgb(picture: Image.Image) -> Picture:
    conversions = []
    if _is_animated(picture):
        conversions.append("first of several frames")
    deep = picture.mode in _SIXTEEN_BIT_MODES or _reads_sixteen_bits(picture)
    picture.load()
    mode = picture.mode
    if mode == "F":
        raise BadPicture("floating-point pixels, whose white is unknown")
    if mode == "LAB":
        raise BadPicture("CIELAB colours, which Pillow converts wrongly")
    if _turn_upright(picture):
        conversions.append("turned as EXIF says")
    if deep:
        conversions.append("16 bits to 8")
    if mode in ("1", "L", "LA", "La") or mode in _SIXTEEN_BIT_MODES:
        conversions.append("greyscale to RGB")
    elif mode in ("P", "PA"):
        conversions.append("palette to RGB")
    elif mode not in ("RGB", "RGBA", "RGBa", "RGBX"):
        conversions.append(f"{mode} to RGB")
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in picture.info:
        conversions.append("transparency dropped")
    if mode in _SIXTEEN_BIT_MODES:
        # Pillow's own conversion clips instead of scaling.
        grey = np.clip(np.asarray(picture), 0, 65535) // 257
        picture = Image.fromarray(grey.astype(np.uint8))
    if mode in ("RGBa", "La"):  # colours multiplied by alpha
        picture = picture.convert({"RGBa": "RGBA", "La": "LA"}[mode])
    if picture.mode != "RGB":
        picture = picture.convert("RGB")
    return Picture(np.array(picture), tuple(conversions))


def _turn_upright(picture: Image.Image) -> bool:
    """Turns and mirrors in place as the EXIF orientation says; whether there was anything to do."""
    try:
        turned = picture.getexif().get(0x0112, 1) in range(2, 9)
        if turned:
            ImageOps.exif_transpose(picture, in_place=True)
        return turned
    except Exception:  # damaged EXIF data do not make the pixels useless
        return False


def _is_animated(picture: Image.Image) -> bool:
    try:
        return picture.format in ("GIF", "PNG", "WEBP", "TIFF", "AVIF") and picture.is_animated
    except Exception:  # a later frame is damaged; the first decides
        return True


def _reads_sixteen_bits(picture: Image.Image) -> bool:
    """Whether Pillow's reader itself reduces 16-bit colour to 8 (it keeps the upper byte)."""
    return any(";16" in str(tile[3]) for tile in getattr(picture, "tile", ()))
