"""How each kind of image file becomes 8-bit RGB for a network, and how that is written.

Training, preparation, inference and evaluation read by these rules, so that a network meets the
same pixels everywhere.
"""

import contextlib
import io
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from tvt_jax.errors import UserError
from tvt_jax.files import atomic_file
from tvt_jax.images.formats import FORMATS, format_of, readable_formats
from tvt_jax.png import write_png

_ORIENTATION = 274  # a tag of EXIF
_SIXTEEN_BIT_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I")
# Pixels. Decoding takes up to 12 bytes each. Larger images are decoded one at a time in a process,
# so that many threads with a few of them do not fill the memory.
_LARGE = 2**25
_one_large_image = threading.Lock()
# Pillow warns, without naming the file, from 89 megapixels on and of every oddity in EXIF data.
# What matters here is an error: more than 179 megapixels, pixels that cannot be decoded.
warnings.filterwarnings("ignore", module=r"PIL\.")


# Their sum is 2 / 255; the first has 16 bits, so that its product with a uint8 fits a float32.
_HIGH = round(2 / 255 * 2**22) / 2**22
_LOW = 2 / 255 - _HIGH


class BadImage(Exception):
    """An image that cannot be used. The message is the reason, without the file's name."""


class DecodedImage(NamedTuple):
    """A decoded image.

    Attributes:
      pixels: [H, W, 3] uint8, RGB.
      conversions: what was done to make it so, for the log: "greyscale to RGB", ...
    """

    pixels: np.ndarray
    conversions: tuple[str, ...]


def decode_image(data: bytes, min_side: int = 1) -> DecodedImage:
    """Decodes an image.

    The EXIF orientation is applied. Greyscale, palette and CMYK become RGB. 16 bits are scaled to
    8. Transparency is dropped. Of an animation, the first frame is taken. Refused are
    floating-point pixels (nothing says which value is white), CIELAB and above 179 megapixels.

    Args:
      data: the encoded file.
      min_side: in px; an image with a shorter side is refused before it is decoded.

    Raises:
      BadImage: the image is damaged, too small, too large or of a refused kind.
    """
    with (
        reading_image(),
        Image.open(io.BytesIO(data), formats=readable_formats()) as image,
    ):
        width, height = image.size
        if min(width, height) < min_side:
            raise BadImage(f"{width}x{height} px, smaller than {min_side}")
        if width * height > _LARGE:
            with _one_large_image:
                return _to_rgb(image)
        return _to_rgb(image)


@contextlib.contextmanager
def reading_image() -> Iterator[None]:
    """Turns whatever goes wrong while an image is decoded into a `BadImage`."""
    try:
        yield
    except BadImage:
        raise
    except Image.DecompressionBombError as error:
        raise BadImage(f"too many pixels: {error}") from error
    except MemoryError as error:
        raise BadImage("not enough memory to decode it") from error
    except Exception as error:  # Pillow's readers raise many kinds when a file is damaged
        reason = " ".join(str(error).split()) or type(error).__name__
        # The text names the object in memory, which is no use to anybody.
        reason = "unknown format or damaged" if "cannot identify" in reason else reason
        raise BadImage(reason) from error


def read_image(path: Path) -> np.ndarray:
    """Reads an image as RGB, by the rules of `decode_image`.

    Returns: [H, W, 3] uint8.
    Raises:
      UserError: the file cannot be read, is damaged, or of a kind that those rules refuse.
    """
    try:
        return decode_image(path.read_bytes()).pixels
    except (OSError, BadImage) as error:
        raise UserError(f"{path} is not a readable image ({error}).") from error


def write_image(path: Path, image: np.ndarray) -> None:
    """Writes [H, W, 3] uint8 in the format of the suffix; complete or not at all.

    Raises:
      UserError: the folder cannot be written, or the format has no images of this size.
    """
    suffix = path.suffix.lower()
    options = {"quality": 95, "subsampling": 0} if suffix in (".jpg", ".jpeg") else {}
    if suffix == ".webp":
        options = {"lossless": True}
    with atomic_file(path) as temporary:
        if suffix == ".png":
            write_png(temporary, image)
            return
        file_format = FORMATS[format_of(path)].name
        try:
            Image.fromarray(image).save(temporary, format=file_format, **options)
        except ValueError as error:  # too large for the format, for example
            raise UserError(f"cannot write {path} as {file_format}: {error}.") from error


def encode_png(pixels: np.ndarray) -> bytes:
    """Encodes [H, W, 3] uint8 as PNG, quickly rather than small."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue()


def to_float(pixels):
    """Scales 0..255 to [-1, 1]: pixels / 127.5 - 1 in float32, to the bit, on any platform.

    Compilers replace the division by a product with a rounded reciprocal, and fuse products with
    sums: either changes the last bit. Here neither does: `pixels * _HIGH` is exact, so that the sum
    is 2 / 255 * pixels rounded once, which is what the division gives.

    Args:
      pixels: uint8 of any shape, of numpy or JAX.

    Returns: float32.
    """
    pixels = pixels.astype("float32")
    return (pixels * _HIGH + pixels * _LOW) - 1.0


def _to_rgb(image: Image.Image) -> DecodedImage:
    conversions = []
    if _is_animated(image):
        conversions.append("first of several frames")
    deep = image.mode in _SIXTEEN_BIT_MODES or reads_sixteen_bits(image)
    image.load()
    mode = image.mode
    if mode == "F":
        raise BadImage("floating-point pixels, whose white is unknown")
    if mode == "LAB":
        raise BadImage("CIELAB colours, which Pillow converts wrongly")
    if _turn_upright(image):
        conversions.append("turned as EXIF says")
    if deep:
        conversions.append("16 bits to 8")
    if mode in ("1", "L", "LA", "La") or mode in _SIXTEEN_BIT_MODES:
        conversions.append("greyscale to RGB")
    elif mode in ("P", "PA"):
        conversions.append("palette to RGB")
    elif mode not in ("RGB", "RGBA", "RGBa", "RGBX"):
        conversions.append(f"{mode} to RGB")
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        conversions.append("transparency dropped")
    if mode in _SIXTEEN_BIT_MODES:
        # Pillow's own conversion clips instead of scaling.
        grey = np.clip(np.asarray(image), 0, 65535) // 257
        image = Image.fromarray(grey.astype(np.uint8))
    if mode in ("RGBa", "La"):  # colours multiplied by alpha
        image = image.convert({"RGBa": "RGBA", "La": "LA"}[mode])
    if image.mode != "RGB":
        image = image.convert("RGB")
    return DecodedImage(np.array(image), tuple(conversions))


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8, that is still to be applied to an image that is loaded.

    Pillow has turned TIFF images itself. Of JPEG XL the codestream says how it is turned, which its
    decoder does, and EXIF does not count (ISO/IEC 18181-2); except where it holds a JPEG file.
    """
    if image.format == "TIFF" or (image.format == "JXL" and not getattr(image, "jpeg", False)):
        return 1
    try:
        turn = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF data do not make the pixels useless
        return 1
    return turn if turn in range(1, 9) else 1


def _turn_upright(image: Image.Image) -> bool:
    """Turns and mirrors in place as the EXIF orientation says; whether there was anything to do."""
    turned = orientation(image) != 1
    if turned:
        ImageOps.exif_transpose(image, in_place=True)
    return turned


def _is_animated(image: Image.Image) -> bool:
    try:
        return image.format in ("GIF", "PNG", "WEBP", "TIFF", "AVIF") and image.is_animated
    except Exception:  # a later frame is damaged; the first decides
        return True


def reads_sixteen_bits(image: Image.Image) -> bool:
    """Whether Pillow's reader itself reduces 16-bit colour to 8 (it keeps the upper byte)."""
    return any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
