"""PNG files written row by row: an image that is larger than the memory, or has 16 bits a colour.

Pillow makes a copy of the whole image before it writes one, and has no 16-bit colours.
Source: Portable Network Graphics (PNG) Specification, third edition, W3C 2025.
"""

import struct
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOR_TYPES = {1: 0, 3: 2, 2: 4, 4: 6}  # by channels: grey, RGB, grey and alpha, RGB and alpha
_PAETH = 4
_BAND = 2**21  # bytes of pixels that are filtered at a time


def write_png(
    path: Path, image: np.ndarray, chunks: Iterable[tuple[bytes, bytes]] = (), level: int = 6
) -> None:
    """Writes an image.

    Args:
      path: the file.
      image: [H, W] or [H, W, C] uint8 or uint16, C from 1 to 4; may be a file mapped into memory.
      chunks: (type, data) of what stands before the pixels: iCCP, eXIf, pHYs, iTXt ...
      level: of the compression, 0 to 9.
    """
    height, width = image.shape[:2]
    channels = 1 if image.ndim == 2 else image.shape[2]
    depth = 8 * image.dtype.itemsize
    header = struct.pack(">IIBBBBB", width, height, depth, _COLOR_TYPES[channels], 0, 0, 0)
    pixel = channels * image.dtype.itemsize
    band = max(1, _BAND // (width * pixel))
    compressor = zlib.compressobj(level)
    with open(path, "wb") as file:
        file.write(_SIGNATURE)
        _write_chunk(file, b"IHDR", header)
        for chunk in chunks:
            _write_chunk(file, *chunk)
        above = np.zeros(width * pixel, np.uint8)
        for start in range(0, height, band):
            rows = np.ascontiguousarray(image[start : start + band], image.dtype.newbyteorder(">"))
            rows = rows.view(np.uint8).reshape(len(rows), width * pixel)
            data = compressor.compress(_filtered(rows, above, pixel))
            if data:
                _write_chunk(file, b"IDAT", data)
            above = rows[-1]
        _write_chunk(file, b"IDAT", compressor.flush())
        _write_chunk(file, b"IEND", b"")


def _filtered(rows: np.ndarray, above: np.ndarray, pixel: int) -> np.ndarray:
    """Rows [n, bytes], less what the Paeth predictor expects, each after the filter's number."""
    up = np.concatenate([above[None], rows[:-1]]).astype(np.int16)
    left, corner = (
        np.pad(x, ((0, 0), (pixel, 0)))[:, :-pixel] for x in (rows.astype(np.int16), up)
    )
    distances = np.abs(up - corner), np.abs(left - corner), np.abs(left + up - 2 * corner)
    predicted = np.where(distances[1] <= distances[2], up, corner)
    nearest = (distances[0] <= distances[1]) & (distances[0] <= distances[2])
    predicted = np.where(nearest, left, predicted)
    filtered = np.full((rows.shape[0], rows.shape[1] + 1), _PAETH, np.uint8)
    filtered[:, 1:] = rows - predicted.astype(np.uint8)
    return filtered


def _write_chunk(file, kind: bytes, data: bytes) -> None:
    file.write(struct.pack(">I", len(data)) + kind)
    file.write(data)
    file.write(struct.pack(">I", zlib.crc32(data, zlib.crc32(kind))))
