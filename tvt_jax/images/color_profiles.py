"""ICC profiles: from the colours of a file to sRGB, which the networks know, and back.

Profiles of cameras and screens are a matrix and three curves, those of greyscale one curve: they
are computed here, since Pillow's LittleCMS takes RGB of 8 bits only. Profiles with tables go
through LittleCMS.
Source: ICC.1:2022, sections 10.6, 10.18 and annex F.
"""

import dataclasses
import functools
import io
import struct
from typing import Protocol

import numpy as np
from PIL import Image, ImageCms

# Points of a curve between black and white.
_POINTS = 4096
_INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
# Profiles that are closer to sRGB than this, of 1, are taken for it: rounding to 8 bits hides the
# difference. That which JPEG XL's decoder makes for sRGB is 0.29 of an 8-bit level off.
_SAME = 0.4 / 255


class BadProfile(Exception):
    """A profile that cannot be applied. The message is the reason."""


class Profile(Protocol):
    """Colours of a file, [..., 3]; of greyscale, three equal channels."""

    def to_srgb(self, colors: np.ndarray) -> np.ndarray:
        """Converts uint8 or uint16 to float32; [0, 1] is sRGB, what lies outside is not in it."""

    def from_srgb(self, colors: np.ndarray) -> np.ndarray:
        """Converts such float32 back, to [0, 1]."""


def open_profile(icc: bytes, space: str) -> Profile | None:
    """Opens a profile; None if it is that of sRGB.

    Args:
      icc: the profile's bytes.
      space: of the image: "RGB" or "GRAY". The latter may have a profile of either.

    Raises:
      BadProfile: it is damaged, belongs to images of another kind, or goes one way only.
    """
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc)).profile
        of = profile.xcolor_space.strip()
        if of not in {space, "RGB"}:
            raise BadProfile(f"it is for {of} images")
        opened = _CurveProfile.read(icc, of) or _TableProfile(icc, of)
    except (ImageCms.PyCMSError, OSError, ValueError, struct.error, IndexError, KeyError) as error:
        raise BadProfile("it is damaged or goes one way only") from error
    levels = np.linspace(0, 255, 9).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1)
    if of == "GRAY":
        grid = np.repeat(levels[:, None], 3, axis=1)
    differs = np.abs(opened.to_srgb(grid) - grid / np.float32(255)).max()
    return opened if differs > _SAME else None


def cmyk_to_rgb(image: Image.Image, icc: bytes | None) -> tuple[Image.Image, bool]:
    """Converts a CMYK image to sRGB; returns it, and whether its profile could be used."""
    if icc:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            flags = ImageCms.Flags.BLACKPOINTCOMPENSATION  # as programs for photographs do
            converted = ImageCms.profileToProfile(
                image, source, _srgb(), _INTENT, outputMode="RGB", flags=flags
            )
            return converted, True
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass
    return image.convert("RGB"), False


def encode_srgb(linear: np.ndarray) -> np.ndarray:
    """Applies sRGB's curve, mirrored at 0 and continued above 1."""
    size = np.abs(linear)
    curve = 1.055 * np.maximum(size, 1e-9) ** np.float32(1 / 2.4) - 0.055
    return np.copysign(np.where(size <= 0.0031308, 12.92 * size, curve), linear)


def decode_srgb(colors: np.ndarray) -> np.ndarray:
    """The inverse of `encode_srgb`."""
    size = np.abs(colors)
    curve = ((size + 0.055) / 1.055) ** np.float32(2.4)
    return np.copysign(np.where(size <= 0.0031308 * 12.92, size / 12.92, curve), colors)


@dataclasses.dataclass(frozen=True)
class _CurveProfile:
    """A matrix [3, 3] to linear sRGB, and for each channel its curve [_POINTS] from 0 to 1."""

    matrix: np.ndarray
    curves: tuple[np.ndarray, ...]

    @classmethod
    def read(cls, icc: bytes, space: str) -> "_CurveProfile | None":
        """Reads a profile; None if it has tables. Raises ValueError and others if damaged."""
        tags = _tags(icc)
        if space == "GRAY":
            return cls(np.eye(3), (_curve(tags["kTRC"]),) * 3) if "kTRC" in tags else None
        if "A2B0" in tags or not {"rXYZ", "rTRC", "gTRC", "bTRC"} <= set(tags):
            return None
        to_xyz = np.stack([_xyz(tags[f"{c}XYZ"]) for c in "rgb"], axis=1)
        matrix = np.linalg.inv(_srgb_to_xyz()) @ to_xyz
        return cls(matrix, tuple(_curve(tags[f"{c}TRC"]) for c in "rgb"))

    def to_srgb(self, colors: np.ndarray) -> np.ndarray:
        levels = np.linspace(0, 1, np.iinfo(colors.dtype).max + 1)
        grid = np.linspace(0, 1, _POINTS)
        tables = [np.interp(levels, grid, curve).astype(np.float32) for curve in self.curves]
        linear = np.stack([table[colors[..., c]] for c, table in enumerate(tables)], axis=-1)
        return encode_srgb(linear @ self.matrix.T.astype(np.float32))

    def from_srgb(self, colors: np.ndarray) -> np.ndarray:
        inverse = np.linalg.inv(self.matrix).astype(np.float32)
        linear = decode_srgb(colors.astype(np.float32)) @ inverse.T
        grid = np.linspace(0, 1, _POINTS)
        channels = [np.interp(linear[..., c], curve, grid) for c, curve in enumerate(self.curves)]
        return np.stack(channels, axis=-1).astype(np.float32)


class _TableProfile:
    """A profile with tables, through LittleCMS in 8 bits."""

    def __init__(self, icc: bytes, space: str):
        own = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        self._mode = "L" if space == "GRAY" else "RGB"
        # Black point compensation would not go back the way it came, nor LittleCMS's shortcuts.
        build = functools.partial(
            ImageCms.buildTransform, renderingIntent=_INTENT, flags=ImageCms.Flags.NOOPTIMIZE
        )
        self._to = build(own, _srgb(), self._mode, "RGB")
        self._from = build(_srgb(), own, "RGB", self._mode)

    def to_srgb(self, colors: np.ndarray) -> np.ndarray:
        levels = colors if colors.dtype == np.uint8 else (colors >> 8).astype(np.uint8)
        levels = levels[..., 0] if self._mode == "L" else levels
        return self._apply(self._to, levels, colors.shape)

    def from_srgb(self, colors: np.ndarray) -> np.ndarray:
        levels = np.round(np.clip(colors, 0, 1) * np.float32(255)).astype(np.uint8)
        return self._apply(self._from, levels, colors.shape)

    def _apply(self, transform, levels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        color = levels.ndim == len(shape)
        flat = levels.reshape(1, -1, 3) if color else levels.reshape(1, -1)
        image = ImageCms.applyTransform(Image.fromarray(np.ascontiguousarray(flat)), transform)
        result = np.asarray(image, np.float32) / 255
        result = result if result.ndim == 3 else np.repeat(result[..., None], 3, axis=2)
        return result.reshape(shape)


@functools.cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


@functools.cache
def _srgb_to_xyz() -> np.ndarray:
    """Linear sRGB to the XYZ of profiles, whose white is D50; [3, 3]."""
    tags = _tags(_srgb().tobytes())
    return np.stack([_xyz(tags[f"{c}XYZ"]) for c in "rgb"], axis=1)


def _tags(icc: bytes) -> dict[str, bytes]:
    [count] = struct.unpack_from(">I", icc, 128)
    entries = [struct.unpack_from(">4sII", icc, 132 + 12 * n) for n in range(min(count, 200))]
    return {name.decode("latin-1"): icc[start : start + size] for name, start, size in entries}


def _xyz(tag: bytes) -> np.ndarray:
    return np.array(struct.unpack_from(">3i", tag, 8)) / 65536


def _curve(tag: bytes) -> np.ndarray:
    """Points of a `curv` or `para` tag, rising from 0 to 1."""
    x = np.linspace(0, 1, _POINTS)
    if tag[:4] == b"curv":
        [count] = struct.unpack_from(">I", tag, 8)
        values = struct.unpack_from(f">{count}H", tag, 12)
        if count == 0:
            y = x
        elif count == 1:
            y = x ** (values[0] / 256)
        else:
            y = np.interp(x, np.linspace(0, 1, count), np.array(values) / 65535)
    elif tag[:4] == b"para":
        y = _parametric(tag, x)
    else:
        raise ValueError(f"a curve of type {tag[:4]!r}")
    # Noise in measured curves would have no inverse.
    y = np.maximum.accumulate(np.clip(y, 0, 1))
    if not y[-1] > y[0]:
        raise ValueError("a curve that does not rise")
    return y


def _parametric(tag: bytes, x: np.ndarray) -> np.ndarray:
    """Y = (aX + b)^g + e above d, cX + f below it; the five kinds leave out some of these."""
    [kind] = struct.unpack_from(">H", tag, 8)
    if kind > 4:
        raise ValueError(f"a parametric curve of kind {kind}")
    g, *rest = (n / 65536 for n in struct.unpack_from(f">{(1, 3, 4, 5, 7)[kind]}i", tag, 12))
    a, b, c, d, e, f = 1.0, 0.0, 0.0, 0.0, 0.0, 0.0
    if kind in (1, 2):
        a, b, *offset = rest
        d = -b / a
        e = f = offset[0] if offset else 0.0
    elif kind >= 3:
        a, b, c, d, *offsets = rest
        e, f = offsets or (0.0, 0.0)
    power = np.maximum(a * x + b, 0) ** g
    return np.where(x >= d, power + e, c * x + f)
