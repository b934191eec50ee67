"""Correlation of an image with a kernel, by the fastest method for that kernel."""

import cv2
import numpy as np

_BORDER = cv2.BORDER_REFLECT_101  # mirrored, the edge pixel not repeated
_NEGLIGIBLE = 1e-7  # in a kernel that sums to 1
_ROUNDING = 1e-12  # of a kernel that is the product of a column and a row, in float64
# Up to this many values a direct sum is faster than a Fourier transform. Beyond it OpenCV switches
# to a transform of its own, three times slower than the one below.
_DIRECT_VALUES = 129


def blur(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Correlates every channel with one kernel; the borders are mirrored.

    Args:
      image: [H, W, 3] float32; both sides longer than half the kernel.
      kernel: [K, L] float, K and L odd; separable kernels are recognised in float64.

    Returns: [H, W, 3] float32; where nothing changes, the image itself. Accurate to about 1e-6.
    Source: BasicSR `filter2D`.
    """
    kernel = _without_margin(kernel)
    if kernel.size == 1:
        return image
    row, column = kernel[kernel.shape[0] // 2], kernel[:, kernel.shape[1] // 2]
    peak = row[row.size // 2]
    if peak > 0 and np.abs(np.outer(column, row / peak) - kernel).max() < _ROUNDING:
        return cv2.sepFilter2D(image, -1, row / peak, column, borderType=_BORDER)
    kernel = kernel.astype(np.float32)
    if kernel.size <= _DIRECT_VALUES:
        return cv2.filter2D(image, -1, kernel, borderType=_BORDER)
    return _blur_by_fourier(image, kernel)


def _without_margin(kernel: np.ndarray) -> np.ndarray:
    """Drops outer rows and columns whose values are all negligible, as many on either side."""
    height, width = kernel.shape
    rows, columns = np.nonzero(np.abs(kernel) > _NEGLIGIBLE)
    above = min(rows.min(), height - 1 - rows.max())
    left = min(columns.min(), width - 1 - columns.max())
    return kernel[above : height - above, left : width - left]


def _blur_by_fourier(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    top, left = kernel.shape[0] // 2, kernel.shape[1] // 2
    rows = cv2.getOptimalDFTSize(height + 2 * top)
    columns = cv2.getOptimalDFTSize(width + 2 * left)
    padded = cv2.copyMakeBorder(
        image, top, rows - height - top, left, columns - width - left, _BORDER
    )
    filter_spectrum = np.zeros((rows, columns), np.float32)
    filter_spectrum[: kernel.shape[0], : kernel.shape[1]] = kernel
    cv2.dft(filter_spectrum, dst=filter_spectrum, nonzeroRows=kernel.shape[0])
    planes = []
    for channel in range(image.shape[2]):
        plane = cv2.extractChannel(padded, channel)
        cv2.dft(plane, dst=plane)
        # The conjugate makes it a correlation. Its wrap-around falls outside the kept part.
        cv2.mulSpectrums(plane, filter_spectrum, 0, c=plane, conjB=True)
        flags = cv2.DFT_INVERSE | cv2.DFT_SCALE | cv2.DFT_REAL_OUTPUT
        cv2.dft(plane, dst=plane, flags=flags, nonzeroRows=height)
        planes.append(plane[:height, :width])
    return cv2.merge(planes)
