"""Drawing recipes: every random choice of the degradation, and nothing else."""

import bisect
import itertools
import math
from collections.abc import Sequence

import numpy as np

from tvt_jax.config import DegradationConfig, DegradationPass
from tvt_jax.data.degradation.kernels import KINDS
from tvt_jax.data.degradation.recipe import (
    Blur,
    Enlarge,
    GaussianNoise,
    Jpeg,
    PoissonNoise,
    Recipe,
    Resize,
    Sinc,
)
from tvt_jax.data.degradation.resize import MODES
from tvt_jax.errors import UserError

_Size = tuple[int, int]  # height, width


def smallest_side(config: DegradationConfig) -> int:
    """The shortest side of an image, px, for which mirrored borders always work.

    A kernel reaches `max(kernel_sizes) // 2` px past the border and the image must be longer than
    that: at its full size, after the strongest first reduction, and at the low resolution.
    """
    reach = max(config.kernel_sizes) // 2
    side = config.scale * (reach + 1)
    while math.floor(side * config.first.resize_range[0]) <= reach:
        side += config.scale
    return side


def draw_recipe(
    config: DegradationConfig, rng: np.random.Generator, height: int, width: int
) -> Recipe:
    """Draws a degradation; the same state of the generator gives the same recipe.

    Args:
      config: the distributions, validated.
      rng: the only source of randomness; it advances.
      height, width: of the high resolution, multiples of `config.scale` and at least
        `smallest_side(config)`.

    Raises:
      UserError: a side is too short or not a multiple.
    Source: cswry/OSEDiff `dataloaders/realesrgan.py`, without its flip.
    """
    scale, least = config.scale, smallest_side(config)
    if height % scale or width % scale or min(height, width) < least:
        raise UserError(
            f"an image of {width}x{height} px cannot be degraded: its sides must be multiples of "
            f"{scale} and at least {least} px."
        )
    draw = _Draw(config, rng)
    high, low = (height, width), (height // scale, width // scale)
    if config.plain_prob and rng.random() < config.plain_prob:
        operations = (draw.plain_blur(), Resize(*low, "area"))
        return Recipe(height, width, operations, draw.enlargement(low, high))
    operations = draw.blur(config.first)

    factor = draw.factor(config.first)
    between = (math.floor(height * factor), math.floor(width * factor))
    operations += [
        draw.resize(high, between, 0.0 if config.aligned_resize else factor),
        draw.noise(config.first),
        draw.jpeg(config.first),
    ]

    operations += draw.blur(config.second)
    factor = draw.factor(config.second)
    reduced = (math.floor(height / scale * factor), math.floor(width / scale * factor))
    operations += [draw.resize(between, reduced), draw.noise(config.second)]
    to_low = [draw.resize(reduced, low), *draw.final_sinc()]
    jpeg = draw.jpeg(config.second)
    operations += [*to_low, jpeg] if rng.random() < 0.5 else [jpeg, *to_low]
    return Recipe(height, width, tuple(operations), draw.enlargement(low, high))


class _Draw:
    """The choices that a recipe consists of."""

    def __init__(self, config: DegradationConfig, rng: np.random.Generator):
        self._config, self._rng = config, rng

    def blur(self, settings: DegradationPass) -> list[Blur | Sinc]:
        """One kernel or none."""
        if self._rng.random() >= settings.blur_prob:
            return []
        size = self._size()
        if self._rng.random() < settings.sinc_prob:
            return [Sinc(size, self._rng.uniform(math.pi / (3 if size < 13 else 5), math.pi))]
        kind = self._choice(KINDS, settings.kernel_prob)
        sigma_x = self._rng.uniform(*settings.blur_sigma)
        sigma_y, theta, beta = sigma_x, 0.0, 1.0
        if kind.endswith("aniso"):
            sigma_y = self._rng.uniform(*settings.blur_sigma)
            theta = self._rng.uniform(-math.pi, math.pi)
        if kind.startswith("generalized"):
            beta = self._around_one(settings.betag_range)
        elif kind.startswith("plateau"):
            beta = self._around_one(settings.betap_range)
        return [Blur(kind, size, sigma_x, sigma_y, theta, beta)]

    def plain_blur(self) -> Blur:
        """A round bell."""
        sigma = self._rng.uniform(*self._config.plain_blur_sigma)
        return Blur("iso", max(self._config.kernel_sizes), sigma, sigma, 0.0, 1.0)

    def final_sinc(self) -> list[Sinc]:
        """One kernel or none."""
        if self._rng.random() >= self._config.final_sinc_prob:
            return []
        return [Sinc(self._size(), self._rng.uniform(math.pi / 3, math.pi))]

    def factor(self, settings: DegradationPass) -> float:
        """The factor of a resize, above, below or exactly 1."""
        low, high = settings.resize_range
        direction = self._choice(("up", "down", "keep"), settings.resize_prob)
        if direction == "keep":
            return 1.0
        return self._rng.uniform(1, high) if direction == "up" else self._rng.uniform(low, 1)

    def resize(self, before: _Size, after: _Size, scale: float = 0.0) -> Resize:
        """A mode of resizing, drawn even if the size does not change."""
        mode = MODES[self._rng.integers(len(MODES))]
        if mode == "area" and self._config.smooth_area_enlargement and after > before:
            mode = "bilinear"
        return Resize(*after, mode, scale)

    def enlargement(self, low: _Size, high: _Size) -> Resize | Enlarge:
        """How the low resolution comes back to the size of the high one."""
        return Enlarge(*high) if self._config.enlarge_as_inference else self.resize(low, high)

    def noise(self, settings: DegradationPass) -> GaussianNoise | PoissonNoise:
        """Noise of one kind, with its seed."""
        gaussian = self._rng.random() < settings.gaussian_noise_prob
        strength = settings.noise_range if gaussian else settings.poisson_scale_range
        return (GaussianNoise if gaussian else PoissonNoise)(
            self._rng.uniform(*strength),
            self._rng.random() < settings.gray_noise_prob,
            int(self._rng.integers(2**63)),
        )

    def jpeg(self, settings: DegradationPass) -> Jpeg:
        """A quality."""
        return Jpeg(self._rng.uniform(*settings.jpeg_range), self._config.jpeg_codec)

    def _size(self) -> int:
        sizes = self._config.kernel_sizes
        return sizes[self._rng.integers(len(sizes))]

    def _around_one(self, limits: tuple[float, float]) -> float:
        low, high = limits
        return self._rng.uniform(low, 1) if self._rng.random() < 0.5 else self._rng.uniform(1, high)

    def _choice(self, names: Sequence[str], probabilities: Sequence[float]) -> str:
        place = bisect.bisect(list(itertools.accumulate(probabilities)), self._rng.random())
        return names[min(place, len(names) - 1)]  # the sum may fall short of 1 by rounding
