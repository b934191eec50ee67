"""Which sizes an image goes through on its way to the output."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image

from tvt_jax.errors import UserError, check_type
from tvt_jax.inference.tiling import Tile

# The release enlarges small inputs until their short side is this after upscaling (its
# `process_size`), the size that the networks were trained at.
_PROCESS_SIZE = 512
# That enlargement stops where the long side would pass this: a 1 x 1000 px strip would otherwise
# become 512 x 512,000 px.
_MAX_ENLARGED_SIDE = 2048

Size = tuple[int, int]  # width, height


def check_image(image: np.ndarray, dtypes: Sequence[str] = ("uint8", "uint16")) -> None:
    """Raises unless `image` is [H, W, 3] of one of the dtypes and not empty.

    Raises:
      TypeError: it is no array.
      UserError: it is another array.
    """
    check_type("image", image, np.ndarray)
    if image.dtype not in dtypes or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise UserError(
            f"`image` must be [height, width, 3] {' or '.join(dtypes)}, not {image.shape} "
            f"{image.dtype}."
        )


@dataclasses.dataclass(frozen=True)
class SizePlan:
    """Sizes (width, height) in pixels.

    Attributes:
      enlarged: the input, or its bicubic enlargement where it is small.
      working: `enlarged` times the scale; what the network restores.
      output: exactly round(scale x input).
    """

    enlarged: Size
    working: Size
    output: Size


def plan_sizes(width: int, height: int, scale: float) -> SizePlan:
    """Plans the sizes of one image.

    Args:
      width, height: of the input, at least 1.
      scale: 1 to 8; the networks are trained for 4.
    """
    short, long = min(width, height), max(width, height)
    # Kept as a fraction: the release's floating point turns a side of 49 into 127 instead of 128.
    target, unit = int(_PROCESS_SIZE // scale), short
    longest = max(long, int(_MAX_ENLARGED_SIDE // scale))
    if target * long > longest * unit:
        target, unit = longest, long
    if target <= unit:
        target, unit = 1, 1
    enlarged = (width * target // unit, height * target // unit)
    enlarged = (max(enlarged[0], 1), max(enlarged[1], 1))
    working = (_scaled(enlarged[0], scale), _scaled(enlarged[1], scale))
    return SizePlan(enlarged, working, (_scaled(width, scale), _scaled(height, scale)))


def _scaled(side: int, scale: float) -> int:
    return max(1, round(side * scale))


def enlarge(image: np.ndarray, plan: SizePlan) -> np.ndarray:
    """Resizes the input [H, W, 3] to `plan.working`, bicubic, in the release's two steps."""
    return resize(resize(image, plan.enlarged), plan.working)


def resize(image: np.ndarray, size: Size) -> np.ndarray:
    """Resizes [H, W] or [H, W, C] uint8 or uint16, bicubic, by Pillow."""
    if (image.shape[1], image.shape[0]) == size:
        return image
    if image.dtype == np.uint8 and (image.ndim == 2 or image.shape[2] == 3):
        return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    if image.ndim == 2:
        # Pillow has 16 bits in one channel only.
        channel = Image.fromarray(np.ascontiguousarray(image))
        return np.asarray(channel.resize(size, Image.Resampling.BICUBIC))
    return np.stack([resize(image[..., c], size) for c in range(image.shape[2])], axis=2)


class EnlargedInput:
    """What `enlarge` returns, padded as by `pad`, made part by part.

    Args:
      image: [H, W, 3] uint8 or uint16, the input.
      plan: its sizes.
      multiple: of px that the padded sides are.

    Attributes:
      size, padded: (height, width) of the enlarged image, and of it with its padding.
    """

    def __init__(self, image: np.ndarray, plan: SizePlan, multiple: int):
        # Pillow has 16 bits in one channel only.
        channels = [image] if image.dtype == np.uint8 else np.moveaxis(image, 2, 0)
        images = [Image.fromarray(np.ascontiguousarray(x)) for x in channels]
        if images[0].size != plan.enlarged:
            images = [x.resize(plan.enlarged, Image.Resampling.BICUBIC) for x in images]
        self._images = images
        self._multiple = multiple
        self.size = plan.working[::-1]
        self.padded = tuple(side + -side % multiple for side in self.size)

    def read(self, tile: Tile) -> np.ndarray:
        """What a tile sees, [h, w, 3] in the dtype of the input."""
        (height, width), (from_width, from_height) = self.size, self._images[0].size
        left, top = tile.columns.start, tile.rows.start
        right, bottom = min(tile.columns.stop, width), min(tile.rows.stop, height)
        box = (
            left * from_width / width, top * from_height / height,
            right * from_width / width, bottom * from_height / height,
        )  # fmt: skip
        size = (right - left, bottom - top)
        parts = [x.resize(size, Image.Resampling.BICUBIC, box=box) for x in self._images]
        image = np.asarray(parts[0]) if len(parts) == 1 else np.stack(parts, axis=2)
        return pad(image, self._multiple)


def pad(image: np.ndarray, multiple: int) -> np.ndarray:
    """Pads [H, W, C] at the bottom and right to multiples of `multiple` pixels.

    The release resizes down to a multiple of 8 instead, and loses the exact output size.
    """
    for axis in (0, 1):
        size = image.shape[axis]
        widths = [(0, 0)] * image.ndim
        widths[axis] = (0, -size % multiple)
        # A mirrored border continues texture; a line of one pixel has nothing to mirror.
        image = np.pad(image, widths, mode="edge" if size == 1 else "reflect")
    return image


def to_output(image: np.ndarray, plan: SizePlan) -> np.ndarray:
    """Resizes [H, W, 3] of `plan.working` to `plan.output`, bicubic, where they differ."""
    return resize(image, plan.output)
