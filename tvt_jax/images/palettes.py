"""Images of many colours as images of a palette."""

import numpy as np
from PIL import Image

_ENTRIES = 256


def to_palette(image: Image.Image, one_transparent: bool) -> Image.Image | None:
    """Finds 256 colours for an image.

    Args:
      image: of mode RGB or RGBA.
      one_transparent: the palette has one transparent entry, and alpha is 0 or 255; else entries
        of any transparency, where the image has no more than 256 of them.

    Returns: the image with a palette; None if it has more graded transparency than that.
    """
    if image.mode == "RGB":
        return image.quantize(_ENTRIES, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    samples = np.asarray(image)
    entries, indices = np.unique(samples.reshape(-1, 4).view(np.uint32), return_inverse=True)
    if len(entries) <= _ENTRIES:
        result = Image.fromarray(indices.reshape(samples.shape[:2]).astype(np.uint8))
        result = result.convert("P")
        result.putpalette(entries.view(np.uint8).tobytes(), "RGBA")
        return result
    if not one_transparent:
        return None
    colors = Image.fromarray(samples[..., :3].copy())
    result = colors.quantize(_ENTRIES - 1, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    result.paste(_ENTRIES - 1, mask=Image.fromarray(np.uint8(255) * (samples[..., 3] < 128)))
    palette = result.getpalette()
    result.putpalette(palette + [0] * (3 * _ENTRIES - len(palette)))
    result.info["transparency"] = _ENTRIES - 1
    return result
