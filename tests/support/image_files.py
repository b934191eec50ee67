"""Small images for tests of the data pipeline, sound and odd."""

import io
from pathlib import Path

import cv2
import numpy as np
from PIL import Image


def noise(seed: int, height: int = 40, width: int = 48) -> np.ndarray:
    """[H, W, 3] uint8; no two seeds and no two crops are alike."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def write_images(folder: Path, count: int, height: int = 40, width: int = 48) -> Path:
    """Writes `count` noise images."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.fromarray(noise(number, height, width)).save(folder / f"{number:03d}.png")
    return folder


def write_marked_images(folder: Path, count: int, first: int = 0, side: int = 24) -> Path:
    """Writes plain images whose grey value is their number, so that a batch tells them apart."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        Image.new("RGB", (side, side), (number,) * 3).save(folder / f"{number:03d}.png")
    return folder


def marks(batch: dict) -> list[int]:
    """The numbers of the marked images in a batch."""
    return [int(value) for value in batch["hr"][:, 0, 0, 0]]


def encode(image: Image.Image, file_format: str, **options) -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, format=file_format, **options)
    return buffer.getvalue()


def odd_images(count: int, seed: int = 0) -> dict[str, bytes]:
    """Files named like images: every odd kind, whole and damaged in every way.

    Returns: content by file name; no two are equal.
    """
    rng = np.random.default_rng(seed)
    whole = _whole_images(rng)
    files = {
        **whole,
        "empty.png": b"",
        "text.jpg": b"this is not an image",
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


def _whole_images(rng: np.random.Generator) -> dict[str, bytes]:
    def image(height=32, width=36):
        return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))

    files = {
        "one_pixel.png": encode(image(1, 1), "PNG"),
        "line.png": encode(image(1, 500), "PNG"),
        "grey.jpg": encode(image().convert("L"), "JPEG"),
        "grey_alpha.png": encode(image().convert("LA"), "PNG"),
        "bilevel.png": encode(image().convert("1"), "PNG"),
        "alpha.png": encode(image().convert("RGBA"), "PNG"),
        "alpha.webp": encode(image().convert("RGBA"), "WEBP", lossless=True),
        "palette.png": encode(image().convert("P"), "PNG"),
        "palette_transparent.png": encode(image().convert("P"), "PNG", transparency=3),
        "cmyk.jpg": encode(image().convert("CMYK"), "JPEG"),
        "cmyk.tif": encode(image().convert("CMYK"), "TIFF"),
        "lab.tif": encode(Image.frombytes("LAB", (36, 32), rng.bytes(36 * 32 * 3)), "TIFF"),
        "progressive.jpg": encode(image(), "JPEG", progressive=True),
        "animated.gif": encode(image(), "GIF", save_all=True, append_images=[image()]),
        "animated.webp": encode(image(), "WEBP", save_all=True, append_images=[image()]),
        "animated.png": encode(image(), "PNG", save_all=True, append_images=[image()]),
        "pages.tif": encode(image(), "TIFF", save_all=True, append_images=[image()]),
        "plain.bmp": encode(image(), "BMP"),
        "plain.ppm": encode(image(), "PPM"),
        "plain.tga": encode(image(), "TGA"),
        "plain.jp2": encode(image(), "JPEG2000"),
        "plain.avif": encode(image(), "AVIF"),
        "wrong_suffix.jpg": encode(image(), "PNG"),
        "damaged_exif.jpg": encode(image(), "JPEG", exif=b"Exif\0\0" + rng.bytes(60)),
        "damaged_icc.jpg": encode(image(), "JPEG", icc_profile=rng.bytes(300)),
    }
    for orientation in range(1, 10):
        exif = Image.Exif()
        exif[0x0112] = orientation
        files[f"turned_{orientation}.jpg"] = encode(image(), "JPEG", exif=exif)
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
