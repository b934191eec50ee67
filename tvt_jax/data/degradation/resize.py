"""Resizing as PyTorch's `interpolate` does it, oddities included."""

import cv2
import numpy as np

_INTERPOLATION = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}
MODES = ("area", *_INTERPOLATION)


def resize(
    image: np.ndarray, height: int, width: int, mode: str, scale: float | None = None
) -> np.ndarray:
    """Resizes an image; bilinear and bicubic do not smooth when they reduce.

    Args:
      image: [H, W, 3] float32.
      height, width: of the result.
      mode: one of `MODES`. "area" is the mean over the pixels that an output pixel touches, each
        with the same weight: nearest neighbour for whole factors of enlargement.
      scale: None, or the factor at which bilinear and bicubic sample: output pixel i lies at
        (i + 0.5) / scale - 0.5. Without it the factor is the ratio of the sizes.

    Returns: [height, width, 3] float32, the image itself where nothing changes. Within 1e-4 of
      PyTorch (the weights of bilinear and bicubic are rounded otherwise), area within 1e-6.
    Source: `torch.nn.functional.interpolate` with align_corners=False, and with
      recompute_scale_factor=None where `scale` is given.
    """
    # At unchanged size only PyTorch's bicubic samples between pixels.
    if image.shape[:2] == (height, width) and (mode != "bicubic" or scale in (None, 1.0)):
        return image
    if mode == "area":
        return _mean_of_touched(image, height, width)
    if scale is None:
        return cv2.resize(image, (width, height), interpolation=_INTERPOLATION[mode])
    return _sample_at(image, scale, _INTERPOLATION[mode])[:height, :width]


def _sample_at(image: np.ndarray, scale: float, interpolation: int) -> np.ndarray:
    """Resizes by a factor; the size is rounded up or down."""
    resized = cv2.resize(image, None, fx=scale, fy=scale, interpolation=interpolation)
    if resized.shape == image.shape:
        # OpenCV copies if the rounded size is unchanged, even if the factor is not 1. So resize one
        # axis at a time and triple the other: every third sample there is an original one.
        image = cv2.resize(image, None, fx=scale, fy=3, interpolation=interpolation)[1::3]
        resized = cv2.resize(image, None, fx=3, fy=scale, interpolation=interpolation)[:, 1::3]
    return resized


def _mean_of_touched(image: np.ndarray, height: int, width: int) -> np.ndarray:
    if height % image.shape[0] == 0 and width % image.shape[1] == 0:
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_NEAREST)
    # Rows are contiguous, columns are not.
    image = cv2.transpose(_mean_of_touched_rows(image, height))
    return cv2.transpose(_mean_of_touched_rows(image, width))


def _mean_of_touched_rows(image: np.ndarray, count: int) -> np.ndarray:
    length = image.shape[0]
    index = np.arange(count)
    first = index * length // count
    touched = -(-(index + 1) * length // count) - first
    rows = image.reshape(length, -1)
    total = rows[first]
    for step in range(1, touched.max()):
        more = rows[np.minimum(first + step, length - 1)]
        more *= (touched > step).astype(np.float32)[:, None]
        total += more
    total *= (1 / touched).astype(np.float32)[:, None]
    return total.reshape(count, *image.shape[1:])
