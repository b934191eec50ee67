"""Colour correction: the output takes the colours of the upscaled input.

Source: StableSR's and OSEDiff's `wavelet_color_fix.py`, as the release imports it.
"""

import jax.numpy as jnp

_WAVELET_LEVELS = 5


def color_fix(output, reference, method):
    """Corrects the colours of a whole image.

    Args:
      output: [H, W, 3] float32 in [0, 1], the restored image.
      reference: [H, W, 3] float32 in [0, 1], the upscaled input.
      method: "adain" matches each channel's mean and deviation, "wavelet" takes the low
        frequencies of the reference, "none" returns `output`.

    Returns: [H, W, 3] float32, not clamped.
    Raises: ValueError for an unknown method.
    """
    if method == "adain":
        return _adain(output, reference)
    if method == "wavelet":
        return output - low_frequencies(output) + low_frequencies(reference)
    if method == "none":
        return output
    raise ValueError(f"there is no colour fix {method!r}")


def _adain(output, reference):
    def statistics(image):
        # Relative to one pixel: dividing by the deviation of a flat channel would enlarge the
        # rounding of its mean a hundredfold.
        pivot = image[:1, :1]
        mean = pivot + jnp.mean(image - pivot, axis=(0, 1), keepdims=True)
        # The unbiased variance and an epsilon inside the root, as the reference has them.
        variance = jnp.var(image - pivot, axis=(0, 1), ddof=1, keepdims=True)
        return mean, jnp.sqrt(variance + 1e-5)

    mean, deviation = statistics(output)
    wanted_mean, wanted_deviation = statistics(reference)
    return (output - mean) / deviation * wanted_deviation + wanted_mean


def low_frequencies(image):
    """Blurs [H, W, C] five times by [1, 2, 1] / 4 with holes of 1, 2, 4, 8 and 16 pixels."""
    for level in range(_WAVELET_LEVELS):
        reach = 2**level
        for axis in (0, 1):
            pads = [(0, 0)] * image.ndim
            pads[axis] = (reach, reach)
            padded = jnp.pad(image, pads, mode="edge")
            size = image.shape[axis]
            before, centre, after = (
                jnp.take(padded, jnp.arange(start, start + size), axis=axis)
                for start in (0, reach, 2 * reach)
            )
            image = 0.25 * before + 0.5 * centre + 0.25 * after
    return image
