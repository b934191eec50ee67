"""A photograph's enlargement as a file: as the photograph came, as far as the format goes."""

import dataclasses
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tvt_jax.errors import UserError
from tvt_jax.files import atomic_file
from tvt_jax.images.formats import DEFAULT_ENCODING, FORMATS, Encoding, Format
from tvt_jax.images.frame import Frame
from tvt_jax.images.metadata import Metadata, exif_bytes
from tvt_jax.images.palettes import to_palette
from tvt_jax.images.photograph import Photograph
from tvt_jax.images.raster import Raster, png_chunks, tiff_tags, write_tiff
from tvt_jax.png import write_png

_IN_MEMORY = Format(
    "Pillow", (), bilevel=True, palette=True, transparent_palette=True, resolution=True
)
_ROWS = 128  # that are converted at a time
_FILTER = 3  # px that the bicubic filter reaches, and one more
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_JPEG_SEGMENT = 65_000  # bytes; the longest that EXIF or XMP may be, with a header


def write_photograph(
    path: Path,
    photograph: Photograph,
    enlarged: Sequence[np.ndarray],
    file_format: str,
    encoding: Encoding,
) -> list[str]:
    """Writes the enlargement of a photograph; complete or not at all.

    Args:
      photograph: the input.
      enlarged: for each of its frames [H, W, 3] of the frame's dtype, sRGB.
      file_format: a key of `FORMATS`.
      encoding: how; its format plays no part.

    Returns: what the format cannot keep, a note each.
    Raises:
      UserError: the folder cannot be written, or the format has no such image.
    """
    target = FORMATS[file_format]
    notes = _losses(photograph, target, encoding)
    frames = [
        _file_samples(photograph, frame, large, target)
        for frame, large in zip(photograph.frames, enlarged, strict=True)
    ]
    raster, said = _raster(frames[0], photograph, target, encoding)
    with atomic_file(path) as temporary:
        try:
            plain = photograph.kind in ("grey", "color") and len(frames) == 1
            if target.name == "PNG" and plain:
                write_png(temporary, raster.samples, png_chunks(raster))
            elif target.name == "TIFF" and plain:
                write_tiff(temporary, raster)
            else:
                options = _options(target, encoding, raster)
                first, *others = (
                    _pillow_image(samples, photograph, frame, target)
                    for samples, frame in zip(frames, photograph.frames, strict=True)
                )
                if photograph.kind == "palette" and target.palette and first.mode == "RGBA":
                    notes.append("the transparency of a palette needs more than its 256 entries")
                if others:
                    options |= dict(save_all=True, append_images=others)
                    if target.name != "TIFF":
                        durations = [round(frame.duration) for frame in photograph.frames]
                        options |= dict(duration=durations, loop=photograph.loop)
                first.save(temporary, target.name, **options)
        except (ValueError, RuntimeError) as error:
            raise UserError(f"cannot write {path} as {target.name}: {error}.") from error
    return notes + said


def _raster(
    samples: np.ndarray, photograph: Photograph, target: Format, encoding: Encoding
) -> tuple[Raster, list[str]]:
    """Values with what the format keeps beside them; and what turned out to be too long."""
    height, width = samples.shape[:2]
    metadata = Metadata() if encoding.strip_metadata else photograph.metadata
    exif = xmp = None
    if target.metadata:
        exif = exif_bytes(metadata.exif, width, height) if metadata.exif else None
        xmp = metadata.xmp
    notes = []
    if target.name == "JPEG" and max(len(exif or b""), len(xmp or b"")) > _JPEG_SEGMENT:
        exif, xmp = (None if len(v or b"") > _JPEG_SEGMENT else v for v in (exif, xmp))
        notes.append("EXIF or XMP that are too long are left out in JPEG")
    icc = photograph.icc if target.profile else None
    dpi = metadata.dpi if target.resolution else None
    return Raster(samples, icc, exif, xmp, dpi), notes


def put_together(photograph: Photograph, enlarged: np.ndarray) -> Image.Image:
    """The enlargement of a photograph as an image in memory.

    Args:
      photograph: the input.
      enlarged: for its first frame [H, W, 3] of the frame's dtype, sRGB.

    Returns: of the mode of the input, except that Pillow has no colours of more than 8 bits; its
      `info` has the profile, EXIF, XMP and resolution, for `save`.
    """
    one_channel = photograph.kind == "grey" and photograph.frames[0].alpha is None
    target = dataclasses.replace(_IN_MEMORY, max_depth=32 if one_channel else 8)
    frame = photograph.frames[0]
    samples = _file_samples(photograph, frame, enlarged, target)
    raster, _ = _raster(samples, photograph, target, DEFAULT_ENCODING)
    image = _pillow_image(samples, photograph, frame, target)
    kept = {"icc_profile": raster.icc, "exif": raster.exif, "xmp": raster.xmp, "dpi": raster.dpi}
    image.info |= {name: value for name, value in kept.items() if value is not None}
    return image


def memory_to_write(photograph: Photograph, file_format: str) -> float:
    """Bytes a pixel that writing takes beside the enlargement: PNG and TIFF go by rows."""
    frame = photograph.frames[0]
    as_it_is = frame.rgb.dtype == photograph.dtype and photograph.profile is None
    as_it_is = as_it_is and frame.alpha is None and photograph.kind == "color"
    values = 0.0 if as_it_is else 4.0 * np.dtype(photograph.dtype).itemsize
    by_rows = photograph.kind in ("grey", "color") and len(photograph.frames) == 1
    return values + (0.0 if file_format == "png" and by_rows else 8.0)


def _losses(photograph: Photograph, target: Format, encoding: Encoding) -> list[str]:
    """What a format cannot keep of a photograph."""
    lost = []
    bits = 8 * np.dtype(photograph.dtype).itemsize
    if bits > target.max_depth:
        lost.append(f"{bits} bits become {target.max_depth}")
    if photograph.frames[0].alpha is not None and not target.alpha:
        lost.append("transparency becomes white")
    if photograph.kind in ("bilevel", "palette", "grey") and not getattr(target, photograph.kind):
        names = {"bilevel": "1 bit", "palette": "a palette", "grey": "greyscale"}
        full = "greyscale" if photograph.kind == "bilevel" and target.grey else "colour"
        lost.append(f"{names[photograph.kind]} becomes {full}")
    if photograph.icc and not target.profile:
        lost.append("the colour profile becomes sRGB")
    if not encoding.strip_metadata:
        if photograph.metadata and not target.metadata:
            lost.append("EXIF and XMP are left out")
        if photograph.metadata.dpi and not target.resolution and not photograph.metadata.exif:
            lost.append("the resolution is left out")
    return [f"{loss} in {target.name}" for loss in lost]


def _file_samples(
    photograph: Photograph, frame: Frame, enlarged: np.ndarray, target: Format
) -> np.ndarray:
    """The values of an enlarged frame as the file has them, [H, W, 1 to 4]."""
    dtype = np.dtype(photograph.dtype)
    if 8 * dtype.itemsize > target.max_depth:
        dtype = np.dtype(f"uint{target.max_depth}")
    grey = photograph.kind in ("bilevel", "grey") and target.grey
    alpha = frame.alpha is not None
    keeps_alpha = alpha and target.alpha
    profile = photograph.profile if target.profile else None
    if enlarged.dtype == dtype and not grey and profile is None and not alpha:
        return enlarged
    height, width = enlarged.shape[:2]
    result = np.empty((height, width, (1 if grey else 3) + keeps_alpha), dtype)

    def finish(rows: slice) -> None:
        colors = enlarged[rows] / np.float32(np.iinfo(enlarged.dtype).max)
        if frame.outside is not None and profile is not None:
            colors = colors + _part(frame.outside, (width, height), rows)
        if grey:
            colors = np.repeat((colors @ _LUMA)[..., None], 3, axis=2)
        if profile is not None:
            colors = profile.from_srgb(colors)
        colors = colors.mean(axis=2, keepdims=True) if grey else colors
        if alpha:
            opacity = _part(frame.alpha[..., None], (width, height), rows)
            opacity = np.clip(opacity / np.iinfo(frame.alpha.dtype).max, 0, 1)
            if keeps_alpha:
                colors = np.concatenate([colors, opacity], axis=2)
            else:
                colors = colors * opacity + (1 - opacity)
        result[rows] = _quantised(colors, dtype, frame.white_and_black)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        starts = range(0, height, _ROWS)
        list(pool.map(finish, (slice(n, min(n + _ROWS, height)) for n in starts)))
    return result


def _part(values: np.ndarray, size: tuple[int, int], rows: slice) -> np.ndarray:
    """Rows of [h, w, C], enlarged to `size` (width, height) bicubically; float32."""
    width, height = size
    ratio = values.shape[0] / height
    top, bottom = rows.start * ratio, min(rows.stop * ratio, values.shape[0])
    # Only what the filter sees.
    first = max(int(top) - _FILTER, 0)
    values = np.asarray(values[first : int(bottom) + 1 + _FILTER], np.float32)
    box = (0, top - first, values.shape[1], bottom - first)
    channels = [
        Image.fromarray(values[..., c]).resize(
            (width, rows.stop - rows.start), Image.Resampling.BICUBIC, box=box
        )
        for c in range(values.shape[2])
    ]
    return np.stack([np.asarray(channel) for channel in channels], axis=2)


def _quantised(
    colors: np.ndarray, dtype: np.dtype, white_and_black: tuple[float, float] | None
) -> np.ndarray:
    colors = np.clip(colors, 0, 1)
    if dtype.itemsize < 4:
        return np.round(colors * np.float32(np.iinfo(dtype).max)).astype(dtype)
    white, black = white_and_black
    values = colors.astype(np.float64) * (white - black) + black
    return (values if dtype.kind == "f" else np.round(values)).astype(dtype)


def _pillow_image(
    samples: np.ndarray, photograph: Photograph, frame: Frame, target: Format
) -> Image.Image:
    image = Image.fromarray(samples if samples.shape[2] > 1 else samples[..., 0])
    if photograph.kind == "bilevel" and target.bilevel:
        return image.convert("1", dither=Image.Dither.NONE)
    if photograph.kind == "palette" and target.palette and len(photograph.frames) == 1:
        one_transparent = image.mode == "RGBA" and set(np.unique(frame.alpha)) <= {0, 255}
        if image.mode == "RGB" or target.transparent_palette:
            return to_palette(image, one_transparent) or image
    return image


def _options(target: Format, encoding: Encoding, raster: Raster) -> dict:
    """Arguments of Pillow's `save`."""
    if target.name == "TIFF":
        # Compressed, Pillow writes no directories of tags.
        directories = raster.exif is not None
        compression = {} if directories else {"compression": "tiff_adobe_deflate"}
        return {"tiffinfo": tiff_tags(raster), **compression}
    given = {"icc_profile": raster.icc, "exif": raster.exif, "dpi": raster.dpi}
    if target.name == "PNG":
        options = {"pnginfo": PngInfo()}
        if raster.xmp is not None:
            options["pnginfo"].add_itxt("XML:com.adobe.xmp", raster.xmp.decode("utf-8", "replace"))
    else:
        options = {}
        given["xmp"] = raster.xmp
    options |= {name: value for name, value in given.items() if value is not None}
    if target.lossy:
        options["quality"] = 95 if encoding.quality is None else encoding.quality
    if target.name == "JPEG":
        options["subsampling"] = 0
    elif target.name in ("AVIF", "HEIF"):
        options["subsampling"] = "4:4:4"
    elif target.name == "JXL" and encoding.quality == 100:
        options["lossless"] = True  # which the plug-in does not take 100 for
    elif target.name == "WEBP" and encoding.quality is None:
        # The quality is that of the compression, which is slow above.
        options |= {"lossless": True, "exact": True, "quality": 50}
    return options
