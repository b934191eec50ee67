"""Recipes: a degradation as a list of operations, and applying it."""

import dataclasses

import cv2
import numpy as np
from PIL import Image

from tvt_jax.data.degradation.blur import blur
from tvt_jax.data.degradation.jpeg import CODECS
from tvt_jax.data.degradation.kernels import blur_kernel, sinc_kernel
from tvt_jax.data.degradation.noise import add_noise, gaussian_noise, poisson_noise
from tvt_jax.data.degradation.resize import resize

# The operations. `apply` takes and gives [H, W, 3] float32, changes nothing in place and may return
# its argument. Values outside [0, 1] pass from one operation to the next.


@dataclasses.dataclass(frozen=True)
class Blur:
    """Correlation with a blur kernel; see `kernels.blur_kernel`."""

    kind: str
    size: int
    sigma_x: float
    sigma_y: float
    theta: float
    beta: float

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Blurs an image."""
        return blur(image, blur_kernel(**dataclasses.asdict(self)))


@dataclasses.dataclass(frozen=True)
class Sinc:
    """Correlation with a low-pass; see `kernels.sinc_kernel`."""

    size: int
    cutoff: float

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Filters an image."""
        return blur(image, sinc_kernel(self.size, self.cutoff))


@dataclasses.dataclass(frozen=True)
class Resize:
    """Change of size; see `resize.resize`. A `scale` of 0 stands for the ratio of the sizes."""

    height: int
    width: int
    mode: str
    scale: float = 0.0

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Resizes an image."""
        return resize(image, self.height, self.width, self.mode, self.scale or None)


@dataclasses.dataclass(frozen=True)
class Enlarge:
    """Enlargement as inference does it: of 8-bit levels, by Pillow's bicubic filter."""

    height: int
    width: int

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Enlarges an image."""
        levels = np.rint(_on_levels(image) * 255).astype(np.uint8)
        enlarged = Image.fromarray(levels).resize(
            (self.width, self.height), Image.Resampling.BICUBIC
        )
        return np.asarray(enlarged, np.float32) / 255


@dataclasses.dataclass(frozen=True)
class GaussianNoise:
    """Normal noise, clipped; see `noise.gaussian_noise`."""

    sigma: float
    gray: bool
    seed: int

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Adds the noise to an image."""
        noise = gaussian_noise(*image.shape[:2], self.sigma, self.gray, self.seed)
        return add_noise(image, noise)


@dataclasses.dataclass(frozen=True)
class PoissonNoise:
    """Photon noise, clipped; see `noise.poisson_noise`."""

    scale: float
    gray: bool
    seed: int

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Adds the noise to an image."""
        return add_noise(image, poisson_noise(image, self.scale, self.gray, self.seed))


@dataclasses.dataclass(frozen=True)
class Jpeg:
    """Compression after clipping; see `jpeg`."""

    quality: float
    codec: str

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Compresses and restores an image."""
        return CODECS[self.codec](image, self.quality)


Operation = Blur | Sinc | Resize | GaussianNoise | PoissonNoise | Jpeg


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that was drawn for one image.

    Attributes:
      height, width: of the high resolution that it was drawn for.
      operations: from the high to the low resolution, in this order.
      enlargement: from the low resolution, before it is rounded, to the conditioning image.
    """

    height: int
    width: int
    operations: tuple[Operation, ...]
    enlargement: Resize | Enlarge


def degrade(image: np.ndarray, recipe: Recipe) -> tuple[np.ndarray, np.ndarray]:
    """Applies a recipe; nothing here is random.

    Args:
      image: [H, W, 3] float32 RGB in [0, 1], of the size that the recipe was drawn for. It is not
        changed.
      recipe: from `draw_recipe`.

    Returns:
      lr: [H / scale, W / scale, 3] float32 in [0, 1], on 8-bit levels.
      conditioning: [H, W, 3] float32 in [0, 1], on 8-bit levels: the low resolution at the size of
        the image.
    Raises:
      ValueError: the image has another shape or type than the recipe asks for.
    Source: cswry/OSEDiff `dataloaders/realesrgan.py`, `degrade_process(resize_bak=True)`.
    """
    if image.shape != (recipe.height, recipe.width, 3) or image.dtype != np.float32:
        raise ValueError(
            f"the recipe is for a float32 image of {recipe.height}x{recipe.width}x3, "
            f"not {image.dtype} {'x'.join(map(str, image.shape))}"
        )
    for operation in recipe.operations:
        image = operation.apply(image)
    return _on_levels(image), _on_levels(recipe.enlargement.apply(image))


_LEVELS = np.arange(256, dtype=np.float32) / 255


def _on_levels(image: np.ndarray) -> np.ndarray:
    """Clips to [0, 1] and rounds to multiples of 1/255, halves to the even one."""
    return cv2.LUT(cv2.addWeighted(image, 255, image, 0, 0, dtype=cv2.CV_8U), _LEVELS)
