"""Small pictures for tests of the data pipeline, sound and odd."""

import io
from pathlib import Path

import cv2
import numpy as np
from PIL import Image


def noise(seed: int, height: int = 40, width: int = 48) -> np.ndarray:
    """[H, W, 3] uint8; no two seeds and no two crops are alike."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def write_pictures(folder: Path, count: int, height: int = 40, width: int = 48) -> Path:
    """Writes `count` noise pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.fromarray(noise(number, height, width)).save(folder / f"{number:03d}.png")
    return folder


def write_marked_pictures(folder: Path, count: int, first: int = 0, side: int = 24) -> Path:
    """Writes plain pictures whose grey value is their number, so that a batch tells them apart."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        Image.new("RGB", (side, side), (number,) * 3).save(folder / f"{number:03d}.png")
    return folder


def marks(batch: dict) -> list[int]:
    """The numbers of the marked pictures in a batch."""
    return [int(value) for value in batch["hr"][:, 0, 0, 0]]


def encode(picture: Image.Image, file_format: str, **options) -> bytes:
    """The bytes of a picture's file."""
    buffer = io.BytesIO()
    picture.save(buffer, format=file_format, **options)
    return buffer.getvalue()


def odd_pictures(count: int, seed: int = 0) -> dict[str, bytes]:
    """Files named like pictures: every odd kind, whole and damaged in every way.

    Returns: content by file name; no two are equal.
    """
    rng = np.random.default_rng(seed)
    whole = _whole_pictures(rng)
    files = {
        **whole,
        "empty.png": b"",
        "text.jpg": b"this is not a picture",
        "program.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\nshowpage\n",
        "archive.png": b"PK\x03\x04" + rng.bytes(400),
        "megapixels_100.png": encode(Image.new("L", (10000, 10000), 90), "PNG", compress_level=1),
        "megapixels_200.png": encode(Image.new("1", (20000, 10000)), "PNG", compress_level=1),
        "lies_about_its_size.bmp": _lying_bmp(),
    }
    names = sorted(whole)
    while len(files) < count:
        name = names[len(files) % len(names)]
        how = ("truncated", "flipped", "zeroed", "shuffled")[int(rng.integers(4))]
        stem, suffix = name.rsplit(".", 1)
        files[f"{how}_{len(files):03d}_{stem}.{suffix}"] = _damage(whole[name], how, rng)
    return files


def _whole_pictures(rng: np.random.Generator) -> dict[str, bytes]:
    def picture(height=32, width=36):
        return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))

    files = {
        "one_pixel.png": encode(picture(1, 1), "PNG"),
        "line.png": encode(picture(1, 500), "PNG"),
        "grey.jpg": encode(picture().convert("L"), "JPEG"),
        "grey_alpha.png": encode(picture().convert("LA"), "PNG"),
        "bilevel.png": encode(picture().convert("1"), "PNG"),
        "alpha.png": encode(picture().convert("RGBA"), "PNG"),
        "alpha.webp": encode(picture().convert("RGBA"), "WEBP", lossless=True),
        "palette.png": encode(picture().convert("P"), "PNG"),
        "palette_transparent.png": encode(picture().convert("P"), "PNG", transparency=3),
        "cmyk.jpg": encode(picture().convert("CMYK"), "JPEG"),
        "cmyk.tif": encode(picture().convert("CMYK"), "TIFF"),
        "lab.tif": encode(Image.frombytes("LAB", (36, 32), rng.bytes(36 * 32 * 3)), "TIFF"),
        "progressive.jpg": encode(picture(), "JPEG", progressive=True),
        "animated.gif": encode(picture(), "GIF", save_all=True, append_images=[picture()]),
        "animated.webp": encode(picture(), "WEBP", save_all=True, append_images=[picture()]),
        "animated.png": encode(picture(), "PNG", save_all=True, append_images=[picture()]),
        "pages.tif": encode(picture(), "TIFF", save_all=True, append_images=[picture()]),
        "plain.bmp": encode(picture(), "BMP"),
        "plain.ppm": encode(picture(), "PPM"),
        "plain.tga": encode(picture(), "TGA"),
        "plain.jp2": encode(picture(), "JPEG2000"),
        "plain.avif": encode(picture(), "AVIF"),
        "wrong_suffix.jpg": encode(picture(), "PNG"),
        "damaged_exif.jpg": encode(picture(), "JPEG", exif=b"Exif\0\0" + rng.bytes(60)),
        "damaged_icc.jpg": encode(picture(), "JPEG", icc_profile=rng.bytes(300)),
    }
    for orientation in range(1, 10):
        exif = Image.Exif()
        exif[0x0112] = orientation
        files[f"turned_{orientation}.jpg"] = encode(picture(), "JPEG", exif=exif)
    deep = rng.integers(0, 65536, (32, 36, 4)).astype(np.uint16)
    for channels in (1, 3, 4):
        for suffix in (".png", ".tiff"):
            data = cv2.imencode(suffix, deep[..., :channels])[1].tobytes()
            files[f"sixteen_bits_{channels}{suffix}"] = data
    grey_float = Image.fromarray(rng.random((32, 36)).astype(np.float32))
    files["floating_point.tif"] = encode(grey_float, "TIFF")
    return files


def _lying_bmp() -> bytes:
    data = bytearray(encode(Image.new("RGB", (8, 8)), "BMP"))
    data[18:26] = (9000).to_bytes(4, "little") + (9000).to_bytes(4, "little")
    return bytes(data)


def _damage(data: bytes, how: str, rng: np.random.Generator) -> bytes:
    damaged = bytearray(data)
    if how == "truncated":
        return bytes(damaged[: int(rng.integers(1, len(data)))])
    start = int(rng.integers(len(data)))
    if how == "flipped":
        for place in rng.integers(len(data), size=int(rng.integers(1, 20))):
            damaged[place] ^= int(rng.integers(1, 256))
    elif how == "zeroed":
        damaged[start : start + int(rng.integers(1, 200))] = b""
        damaged += bytes(int(rng.integers(1, 200)))
    else:
        part = bytearray(damaged[start : start + 64])
        rng.shuffle(part)
        damaged[start : start + 64] = part
    return bytes(damaged)
