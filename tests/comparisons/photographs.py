"""What the comparisons restore."""

import numpy as np
from PIL import Image

from tvt_jax.bundled import HELDOUT_PHOTOGRAPHS


def synthetic_image(side: int) -> np.ndarray:
    """[side, side, 3] uint8: a bundled photograph, mirrored where it is too small."""
    image = np.asarray(Image.open(HELDOUT_PHOTOGRAPHS / "hawa_mahal_facade.jpg").convert("RGB"))
    return np.pad(image, ((0, side), (0, side), (0, 0)), mode="symmetric")[:side, :side]
