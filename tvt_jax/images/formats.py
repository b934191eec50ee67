"""Formats of image files: which are read, which are written, and what each can hold."""

import contextlib
import dataclasses
import functools
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from PIL import Image

from tvt_jax.errors import UserError

# Not photographs, or read by running another program (EPS by Ghostscript), or only stubs.
_EXCLUDED_FORMATS = frozenset("BUFR EPS FITS GRIB HDF5 IMT MCIDAS MPEG SPIDER WMF XVTHUMB".split())
# Packages that teach Pillow a format, where they are installed, and what registers it.
_PLUGINS = {"pillow_jxl": None, "pillow_heif": "register_heif_opener"}


@dataclasses.dataclass(frozen=True)
class Format:
    """A format that is written.

    Attributes:
      name: Pillow's.
      suffixes: in lower case; the first is the usual one.
      max_side: px.
      max_depth: bits of a channel.
      grey, bilevel, palette, alpha, frames: whether it has such images; `transparent_palette`,
        whether entries of a palette may be transparent.
      profile, metadata, resolution: whether it keeps an ICC profile; EXIF and XMP; DPI.
      lossy: whether it has a quality.
    """

    name: str
    suffixes: tuple[str, ...]
    max_side: int = 2**31 - 1
    max_depth: int = 8
    grey: bool = True
    bilevel: bool = False
    palette: bool = False
    transparent_palette: bool = False
    alpha: bool = True
    frames: bool = False
    profile: bool = True
    metadata: bool = True
    resolution: bool = False
    lossy: bool = False


# libjpeg stops at 65,500 px although the format has 65,535; libavif reads at most 32,768.
FORMATS: Mapping[str, Format] = {
    "png": Format(
        "PNG", (".png",), max_depth=16, bilevel=True, palette=True, transparent_palette=True,
        frames=True, resolution=True,
    ),
    "jpeg": Format(
        "JPEG", (".jpg", ".jpeg"), max_side=65_500, alpha=False, resolution=True, lossy=True
    ),
    "webp": Format("WEBP", (".webp",), max_side=16_383, grey=False, frames=True, lossy=True),
    "tiff": Format(
        "TIFF", (".tif", ".tiff"), max_depth=32, bilevel=True, palette=True, frames=True,
        resolution=True,
    ),
    "bmp": Format(
        "BMP", (".bmp",), bilevel=True, palette=True, alpha=False, profile=False, metadata=False,
        resolution=True,
    ),
    "avif": Format("AVIF", (".avif",), max_side=32_768, grey=False, frames=True, lossy=True),
    # The plug-in writes no profile.
    "jxl": Format("JXL", (".jxl",), profile=False, lossy=True),
    "heif": Format("HEIF", (".heic", ".heif"), max_side=16_384, grey=False, lossy=True),
}  # fmt: skip


@functools.cache
def readable_formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are read here."""
    Image.init()
    for module, register in _PLUGINS.items():
        with contextlib.suppress(ImportError):
            plugin = importlib.import_module(module)
            if register is not None:
                getattr(plugin, register)()
    return tuple(name for name in Image.OPEN if name not in _EXCLUDED_FORMATS)


@functools.cache
def image_suffixes() -> frozenset[str]:
    """Suffixes, in lower case with their dot, of the formats that are read here."""
    readable = readable_formats()
    extensions = Image.registered_extensions()
    return frozenset(suffix for suffix, name in extensions.items() if name in readable)


@functools.cache
def writable_formats() -> tuple[str, ...]:
    """Names in `FORMATS` of those that this installation writes."""
    readable_formats()  # registers plugins
    return tuple(key for key, file_format in FORMATS.items() if file_format.name in Image.SAVE)


def writable_suffixes() -> tuple[str, ...]:
    """Their suffixes, in lower case with their dot."""
    return tuple(suffix for key in writable_formats() for suffix in FORMATS[key].suffixes)


def format_of(path: Path) -> str | None:
    """Name of the format that a suffix stands for; None if it is not written here."""
    suffix = path.suffix.lower()
    return next((key for key in writable_formats() if suffix in FORMATS[key].suffixes), None)


def check_format(name: str) -> None:
    """Raises UserError unless the format is written by this installation."""
    if name not in writable_formats():
        missing = " without a plug-in of Pillow" if name in FORMATS else ""
        choices = ", ".join(writable_formats())
        raise UserError(f"`format` {name} is not written{missing}; choose one of {choices}.")


def check_fits(name: str, width: int, height: int) -> None:
    """Raises UserError where images of a format cannot have this size, in px."""
    limit = FORMATS[name].max_side
    if max(width, height) > limit:
        raise UserError(
            f"{width}x{height} px is too large for {FORMATS[name].name}, which ends at {limit} px; "
            "choose another `format` or a smaller `scale`."
        )


FormatName = Literal["auto", "png", "jpeg", "webp", "tiff", "bmp", "avif", "jxl", "heif"]


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How enlargements are written.

    Attributes:
      format: of the output; auto for that of the input, or PNG where that one is not written.
      quality: 1 to 100, of the formats that have one. Left out: 95, and WebP without loss.
      strip_metadata: leave out EXIF, XMP and resolution; the colour profile stays.

    Raises:
      UserError: a value is out of range, or has no effect beside the others.
    """

    format: FormatName = "auto"
    quality: int | None = None
    strip_metadata: bool = False

    def __post_init__(self):
        if self.format != "auto":
            check_format(self.format)
        if self.quality is not None:
            if not 1 <= self.quality <= 100:
                raise UserError(f"`quality` {self.quality} is not between 1 and 100.")
            if self.format != "auto" and not FORMATS[self.format].lossy:
                raise UserError(f"`quality` has no effect on {FORMATS[self.format].name}.")


DEFAULT_ENCODING = Encoding()
