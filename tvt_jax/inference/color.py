"""Colour correction: the output takes the colours of the upscaled input.

Source: StableSR's and OSEDiff's `wavelet_color_fix.py`, as the release imports it; lab is
Reinhard et al. 2001, "Color transfer between images", in CIELAB.
"""

import jax.numpy as jnp
import numpy as np

_WAVELET_LEVELS = 5
# Linear sRGB to XYZ over its white, D65 (IEC 61966-2-1).
_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
     [0.0193339, 0.1191920, 0.9503041]],
    np.float32,
)  # fmt: skip
_TO_XYZ = _TO_XYZ / _TO_XYZ.sum(axis=1, keepdims=True)
# From (f(X), f(Y), f(Z)), less f(0), to (L, a, b) / 100.
_TO_LAB = np.array([[0.0, 1.16, 0.0], [5.0, -5.0, 0.0], [0.0, 2.0, -2.0]], np.float32)


def color_fix(output, reference, method, size=None):
    """Corrects the colours of a whole image.

    Args:
      output: [H, W, 3] float32 in [0, 1], the restored image.
      reference: [H, W, 3] float32 in [0, 1], the upscaled input.
      method: "adain" matches each channel's mean and deviation, "lab" those of lightness and of
        the two opponent colours of CIELAB, "wavelet" takes the low frequencies of the reference,
        "none" returns `output`.
      size: (height, width) of what is image, if "wavelet" is to leave out what is beyond.

    Returns: [H, W, 3] float32, not clamped.
    Raises: ValueError for an unknown method.
    """
    if method == "adain":
        return _adain(output, reference)
    if method == "lab":
        return from_lab(_adain(to_lab(output), to_lab(reference)))
    if method == "wavelet":
        return output - low_frequencies(output, size) + low_frequencies(reference, size)
    if method == "none":
        return output
    raise ValueError(f"there is no colour fix {method!r}")


def _adain(output, reference):
    def statistics(image):
        # Relative to one pixel: dividing by the deviation of a flat channel would enlarge the
        # rounding of its mean a hundredfold.
        pivot = image[:1, :1]
        mean = pivot + jnp.mean(image - pivot, axis=(0, 1), keepdims=True)
        # Unbiased, as the reference has it; its epsilon is inside the root.
        variance = jnp.var(image - pivot, axis=(0, 1), ddof=1, keepdims=True)
        return mean, variance

    mean, variance = statistics(output)
    return match_statistics(output - mean, variance, *statistics(reference))


def to_lab(image):
    """Converts sRGB [..., 3] in [0, 1] to CIELAB over 100; float32."""
    image = jnp.clip(image, 0.0, 1.0)
    linear = jnp.where(image <= 0.04045, image / 12.92, ((image + 0.055) / 1.055) ** 2.4)
    xyz = _mixed(linear, _TO_XYZ)
    root = jnp.where(xyz > 216 / 24389, jnp.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return _mixed(root - 16 / 116, _TO_LAB)


def from_lab(lab):
    """The inverse of `to_lab`; what is outside of sRGB leaves [0, 1] above, and is 0 below."""
    root = _mixed(lab, np.linalg.inv(_TO_LAB)) + 16 / 116
    xyz = jnp.where(root > 6 / 29, root**3, (116 * root - 16) * 27 / 24389)
    linear = jnp.maximum(_mixed(xyz, np.linalg.inv(_TO_XYZ)), 0.0)
    curve = 1.055 * jnp.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055
    return jnp.where(linear <= 0.0031308, 12.92 * linear, curve)


def _mixed(channels, matrix):
    """A product with [3, 3], in float32 on any platform (accelerators multiply in fewer bits)."""
    return jnp.stack([sum(channels[..., j] * row[j] for j in range(3)) for row in matrix], axis=-1)


def match_statistics(centred, variance, wanted_mean, wanted_variance):
    """Gives an image [H, W, 3], less its mean and of that variance, another mean and variance."""
    deviation, wanted_deviation = jnp.sqrt(variance + 1e-5), jnp.sqrt(wanted_variance + 1e-5)
    return centred / deviation * wanted_deviation + wanted_mean


def low_frequencies(image, size=None):
    """Blurs [H, W, C] five times by [1, 2, 1] / 4 with holes of 1, 2, 4, 8 and 16 pixels.

    Args:
      size: (height, width) of what is image: its last pixels go on instead of what is beyond.
    """
    height, width = size or image.shape[:2]
    for level in range(_WAVELET_LEVELS):
        reach = 2**level
        for axis, length in enumerate((height, width)):
            places = jnp.arange(image.shape[axis])
            before, after = (
                jnp.take(image, jnp.clip(places + step, 0, length - 1), axis=axis)
                for step in (-reach, reach)
            )
            image = 0.25 * before + 0.5 * image + 0.25 * after
    return image
