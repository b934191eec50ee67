"""Image files of every kind, made from arrays, and their values read again independently."""

import functools
import io
import itertools
import struct
import zlib

import cv2
import numpy as np
from PIL import Image, ImageCms

# Primaries and white D65 as their specifications have them, (x, y), and the exponent of the curve.
PRIMARIES = {
    "Display P3": ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    "Adobe RGB": ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)),
}
_D65 = (0.3127, 0.3290)
_D50 = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)


def _xyz(x: float, y: float) -> np.ndarray:
    return np.array([x / y, 1.0, (1 - x - y) / y])


def rgb_to_xyz(primaries) -> np.ndarray:
    """Linear RGB to XYZ under D50, [3, 3], by the textbook."""
    columns = np.stack([_xyz(*p) for p in primaries], axis=1)
    columns = columns * np.linalg.solve(columns, _xyz(*_D65))
    cones = [_BRADFORD @ white for white in (_xyz(*_D65), _D50)]
    adapt = np.linalg.inv(_BRADFORD) @ np.diag(cones[1] / cones[0]) @ _BRADFORD
    return adapt @ columns


@functools.cache  # that of sRGB says when it was made
def profile(name: str) -> bytes:
    """An ICC profile: "sRGB", "Display P3", "Adobe RGB", or "grey" with gamma 2.2."""
    if name == "sRGB":
        return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    if name == "Display P3":  # sRGB's curve as a parametric one
        values = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
        curve = b"para\0\0\0\0\0\3\0\0" + struct.pack(">5i", *(round(v * 65536) for v in values))
    else:
        gamma = 563 if name == "Adobe RGB" else round(2.2 * 256)
        curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, gamma) + b"\0\0"
    tags = {b"wtpt": _xyz_tag(_D50), b"cprt": _text(b"none"), b"desc": _text(name.encode())}
    if name == "grey":
        tags[b"kTRC"] = curve
    else:
        for letter, column in zip(b"rgb", rgb_to_xyz(PRIMARIES[name]).T, strict=True):
            tags[bytes([letter]) + b"XYZ"] = _xyz_tag(column)
            tags[bytes([letter]) + b"TRC"] = curve
    return _assembled(tags, b"GRAY" if name == "grey" else b"RGB ", b"XYZ ")


def table_profile(space: str) -> bytes:
    """An ICC profile with tables: "RGB", whose channels are CIELAB's, or "CMYK", each of whose inks
    halves the lightness of white, and black makes black."""
    if space == "RGB":
        corners = np.array(list(itertools.product((0, 65535), repeat=3)))
    else:
        corners = np.array([
            [0xFF00 * (not k) / 2 ** (c + m + y), 0x8000, 0x8000]
            for c, m, y, k in itertools.product((0, 1), repeat=4)
        ]).round().astype(int)  # fmt: skip
    inputs = int(np.log2(len(corners)))
    ramps = struct.pack(">2H", 0, 65535)
    identity = struct.pack(">9i", *(65536 * np.eye(3, dtype=int)).ravel())
    lut = b"mft2\0\0\0\0" + bytes([inputs, 3, 2, 0]) + identity + struct.pack(">2H", 2, 2)
    lut += ramps * inputs + corners.astype(">u2").tobytes() + ramps * 3
    tags = {b"wtpt": _xyz_tag(_D50), b"cprt": _text(b"none"), b"desc": _text(b"tables")}
    tags |= {b"A2B0": lut} | ({b"B2A0": lut} if space == "RGB" else {})
    return _assembled(tags, space.ljust(4).encode(), b"Lab ")


def _assembled(tags: dict[bytes, bytes], space: bytes, pcs: bytes) -> bytes:
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for tag, data in tags.items():
        data += b"\0" * (-len(data) % 4)
        table += struct.pack(">4sII", tag, start + len(body), len(data))
        body += data
    size = start + len(body)
    header = struct.pack(">I4sI4s4s4s12s4s", size, b"\0" * 4, 0x04300000, b"mntr", space, pcs,
                         b"\x07\xe0\0\1\0\1\0\0\0\0\0\0", b"acsp")  # fmt: skip
    header += b"\0" * 28 + struct.pack(">3i", *(round(v * 65536) for v in _D50))
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def _xyz_tag(values: np.ndarray) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in values))


def _text(text: bytes) -> bytes:
    encoded = text.decode().encode("utf-16-be")
    return (
        b"mluc\0\0\0\0" + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(encoded), 28) + encoded
    )


def srgb_to(name: str, srgb: np.ndarray) -> np.ndarray:
    """Colours in [0, 1] of sRGB in another space, by the textbook; may leave [0, 1]."""
    srgb_primaries = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
    matrix = np.linalg.inv(rgb_to_xyz(PRIMARIES[name])) @ rgb_to_xyz(srgb_primaries)
    curve = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    linear = curve @ matrix.T
    if name == "Adobe RGB":
        return np.copysign(np.abs(linear) ** (256 / 563), linear)
    low = 12.92 * linear
    return np.where(linear <= 0.0031308, low, 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055)


def deep_png(samples: np.ndarray, icc: bytes | None = None, key: bytes | None = None) -> bytes:
    """A 16-bit PNG file of [H, W, 1 to 4] uint16, without filters; `key` is its tRNS chunk."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    height, width, channels = samples.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))]
    chunks += [(b"iCCP", b"x\0\0" + zlib.compress(icc))] if icc else []
    chunks += [(b"tRNS", key)] if key else []
    chunks += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*c) for c in chunks)


def deep_tiff(samples: np.ndarray) -> bytes:
    """A TIFF file of [H, W, 1, 3 or 4] uint16 or float32, by OpenCV."""
    order = [2, 1, 0, 3][: samples.shape[2]] if samples.shape[2] > 1 else [0]
    return cv2.imencode(".tiff", np.ascontiguousarray(samples[..., order]))[1].tobytes()


def values(data: bytes) -> np.ndarray:
    """The values [H, W, C] of a file at full depth, by OpenCV where they have more than 8 bits."""
    raw = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if raw is not None and raw.dtype != np.uint8:
        raw = raw.reshape(*raw.shape[:2], -1)
        return raw[..., [2, 1, 0, 3][: raw.shape[2]]] if raw.shape[2] > 2 else raw
    with Image.open(io.BytesIO(data)) as image:
        image = (
            image.convert("RGBA" if "transparency" in image.info else "RGB")
            if image.mode == "P"
            else image
        )
        return np.asarray(image).reshape(image.height, image.width, -1)
