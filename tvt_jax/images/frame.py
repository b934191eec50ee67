"""One frame of an image file, as the networks take it."""

import dataclasses

import cv2
import numpy as np

from tvt_jax.images.color_profiles import Profile

# What lies less than this outside of sRGB is rounding: a quarter of an 8-bit level.
_OUTSIDE = 1e-3


@dataclasses.dataclass(frozen=True)
class Frame:
    """One frame of an image file, as networks take it.

    Attributes:
      rgb: [H, W, 3] uint8 or uint16, sRGB. Greyscale has three equal channels; under full
        transparency are the colours of what is near, so that nothing bleeds in from there.
      alpha: [H, W] of the same dtype; None for an image without transparency.
      outside: [H, W, 3] float16, how far the colours are outside of sRGB, in units of its range;
        None if they are inside.
      white_and_black: values of the file that are white and black here, for int32 and float32;
        None for the others, where they are the largest one and 0.
      duration: milliseconds, of an animation.
    """

    rgb: np.ndarray
    alpha: np.ndarray | None = None
    outside: np.ndarray | None = None
    white_and_black: tuple[float, float] | None = None
    duration: float = 0.0


def make_frame(samples: np.ndarray, profile: Profile | None) -> Frame:
    """Makes a frame of upright values [H, W, 1 to 4] uint8 or uint16."""
    alpha = None
    if samples.shape[2] in (2, 4):
        samples, alpha = samples[..., :-1], np.ascontiguousarray(samples[..., -1])
    rgb = np.repeat(samples, 3, axis=2) if samples.shape[2] == 1 else samples
    outside = None
    if profile is not None:
        colors = profile.to_srgb(rgb)
        inside = np.clip(colors, 0, 1)
        if np.abs(colors - inside).max() > _OUTSIDE:
            outside = (colors - inside).astype(np.float16)
        rgb = np.round(inside * np.float32(65535)).astype(np.uint16)
        if alpha is not None and alpha.dtype == np.uint8:
            alpha = alpha * np.uint16(257)
    if alpha is not None and not alpha.all():
        rgb = _bleed(rgb, alpha)
    return Frame(np.ascontiguousarray(rgb), alpha, outside)


def _bleed(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Gives what is wholly transparent the colours of what is near, weighted by alpha."""
    weight = alpha.astype(np.float32) / np.iinfo(alpha.dtype).max
    filled = _filled(rgb.astype(np.float32), weight)
    return np.where(alpha[..., None] > 0, rgb, np.round(filled).astype(rgb.dtype))


def _filled(colors: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Fills where the weight is 0, from means of ever larger squares."""
    height, width = weight.shape
    if weight.all() or max(height, width) == 1:
        return colors
    half = ((width + 1) // 2, (height + 1) // 2)
    small_weight = cv2.resize(weight, half, interpolation=cv2.INTER_AREA)
    small = cv2.resize(colors * weight[..., None], half, interpolation=cv2.INTER_AREA)
    small = small / np.maximum(small_weight, 1e-12)[..., None]
    coarse = cv2.resize(
        _filled(small, small_weight), (width, height), interpolation=cv2.INTER_LINEAR
    )
    return np.where(weight[..., None] > 0, colors, coarse)
