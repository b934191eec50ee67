"""JPEG: the reference's arithmetic without a file, and real files by libjpeg."""

import cv2
import numpy as np

# ITU-T T.81, Annex K. Rows are vertical frequencies, columns horizontal ones.
_STANDARD_LUMA = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    np.float32,
)
# The reference swaps the two directions of the luma table.
LUMA_STEPS = _STANDARD_LUMA.T.copy()
CHROMA_STEPS = np.full((8, 8), 99, np.float32)
CHROMA_STEPS[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
# At 100 the steps are 0 and the reference divides by them.
MAX_QUALITY = 99.99

_RGB_TO_YCBCR = np.array(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
)
_YCBCR_TO_RGB = np.array([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]])
# Scales 0..1 to 0..255 and shifts luma to -128..127 (fourth column). The reference's shift of
# chroma cancels out.
_FROM_RGB = np.column_stack([255 * _RGB_TO_YCBCR, [-128, 0, 0]]).astype(np.float32)
_TO_RGB = np.column_stack([_YCBCR_TO_RGB / 255, [128 / 255] * 3]).astype(np.float32)

# Orthonormal cosine transform of 8 values: row = frequency.
_COSINES = 0.5 * np.cos(np.outer(np.arange(8), 2 * np.arange(8) + 1) * np.pi / 16)
_COSINES[0] /= np.sqrt(2)
_COSINES = _COSINES.astype(np.float32)


def diffjpeg(image: np.ndarray, quality: float) -> np.ndarray:
    """Compresses and restores an image as DiffJPEG does without its differentiable rounding.

    It differs from a real JPEG: the steps are neither rounded nor at least 1, the luma table is
    transposed, colours are not rounded to 8 bits, chroma comes back by nearest neighbour, and sizes
    that are not a multiple of 16 are filled up with black.

    Args:
      image: [H, W, 3] float32; clipped to [0, 1] first.
      quality: above 0, up to 100; taken as `MAX_QUALITY` above that.

    Returns: [H, W, 3] float32 in [0, 1].
    Source: BasicSR `DiffJPEG(differentiable=False)`.
    """
    height, width = image.shape[:2]
    image = np.clip(image, 0, 1)
    if height % 16 or width % 16:
        image = cv2.copyMakeBorder(
            image, 0, -height % 16, 0, -width % 16, cv2.BORDER_CONSTANT, value=0
        )
    quality = min(quality, MAX_QUALITY)
    factor = 50 / quality if quality < 50 else 2 - quality / 50
    colours = cv2.transform(image, _FROM_RGB)
    luma = _quantise(cv2.extractChannel(colours, 0), LUMA_STEPS * np.float32(factor))
    whole, half = image.shape[1::-1], (image.shape[1] // 2, image.shape[0] // 2)
    chroma = []
    for channel in (1, 2):
        plane = cv2.extractChannel(colours, channel)
        plane = cv2.resize(plane, half, interpolation=cv2.INTER_AREA)
        chroma.append(_quantise(plane, CHROMA_STEPS * np.float32(factor)))
    chroma = cv2.resize(cv2.merge(chroma), whole, interpolation=cv2.INTER_NEAREST)
    image = cv2.transform(cv2.merge([luma, chroma]), _TO_RGB)
    return np.clip(image, 0, 1, out=image)[:height, :width]


def _quantise(plane: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Rounds the cosine coefficients of the 8x8 blocks of a plane to multiples of `steps`."""
    height, width = plane.shape
    # One product per row of blocks: larger ones would make BLAS start threads.
    blocks = (height // 8, width, 8)
    plane = np.matmul(plane.reshape(blocks), _COSINES.T)
    plane = np.matmul(_COSINES, plane.reshape(-1, 8, width))
    steps = np.tile(steps, width // 8)
    plane /= steps
    np.rint(plane, out=plane)
    plane *= steps
    plane = np.matmul(_COSINES.T, plane)
    return np.matmul(plane.reshape(blocks), _COSINES).reshape(height, width)


def libjpeg(image: np.ndarray, quality: float) -> np.ndarray:
    """Writes and reads a JPEG file in memory, 4:2:0, by libjpeg-turbo.

    Args:
      image: [H, W, 3] float32 RGB; clipped to [0, 1] and rounded to 8 bits first.
      quality: rounded to a whole number.

    Returns: [H, W, 3] float32 in [0, 1] on 8-bit levels.
    """
    levels = cv2.addWeighted(image, 255, image, 0, 0, dtype=cv2.CV_8U)  # rounds and clips
    quality = max(1, min(100, round(quality)))
    options = [
        cv2.IMWRITE_JPEG_QUALITY, quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    ]  # fmt: skip
    _, file = cv2.imencode(".jpg", cv2.cvtColor(levels, cv2.COLOR_RGB2BGR), options)
    levels = cv2.cvtColor(cv2.imdecode(file, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    return levels.astype(np.float32) / 255


CODECS = {"diffjpeg": diffjpeg, "libjpeg": libjpeg}
