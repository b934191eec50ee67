"""The values of an image file's pixels, at their full depth."""

import cv2
import numpy as np
from PIL import Image

from tvt_jax.images.color_profiles import cmyk_to_rgb
from tvt_jax.images.pixels import BadImage

GREY_MODES = ("1", "L", "LA", "La", "I", "F")
_PHOTOMETRIC, _EXTRA_SAMPLES = 262, 338  # tags of TIFF


def loaded_samples(image: Image.Image, cmyk: bool) -> tuple[np.ndarray, list[str]]:
    """The values [H, W, 1 to 4] of a loaded image: grey or RGB, alpha last; and notes."""
    notes = []
    if cmyk:
        image, by_profile = cmyk_to_rgb(image, image.info.get("icc_profile"))
        how = "through its profile" if by_profile else "without a profile, so only roughly"
        notes.append(f"CMYK becomes RGB {how}")
    mode = image.mode
    if mode.startswith("I;16"):
        samples = np.asarray(image).astype(np.uint16)
        # Pillow turns the values around where 0 is white in 8 bits only.
        if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0:
            samples = 65535 - samples
        samples = samples[..., None]
        key = image.info.get("transparency")
        if isinstance(key, int):  # the one value that is transparent
            opaque = np.where(samples == key, 0, 65535).astype(np.uint16)
            samples = np.concatenate([samples, opaque], axis=2)
        return samples, notes
    if mode in ("I", "F"):
        return np.asarray(image)[..., None], notes
    transparent = mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    if mode in ("RGBa", "La"):  # colours multiplied by alpha
        image = image.convert({"RGBa": "RGBA", "La": "LA"}[mode])
    grey = mode in GREY_MODES
    wanted = ("L" if grey else "RGB") + ("A" if transparent else "")
    if image.mode != wanted:
        # Pillow knows transparent values of greyscale as RGBA only.
        image = image.convert("RGBA") if transparent else image
        image = image.convert(wanted)
    samples = np.asarray(image)
    return samples.reshape(*samples.shape[:2], -1), notes


def deep_samples(data: bytes, image: Image.Image, grey: bool) -> np.ndarray | None:
    """The values [H, W, 2 to 4] uint16 of an image whose 16 bits Pillow reduces to 8.

    None if OpenCV cannot read it either, as 16-bit CMYK.
    """
    if image.mode not in ("RGB", "RGBA", "LA"):
        return None
    samples = opencv_samples(data)
    if samples is None or samples.dtype != np.uint16 or samples.ndim != 3:
        return None
    if getattr(image, "tag_v2", {}).get(_EXTRA_SAMPLES) == (1,):  # colours multiplied by alpha
        alpha = np.maximum(samples[..., 3:].astype(np.float32), 1) / 65535
        color = np.clip(np.round(samples[..., :3] / alpha), 0, 65535).astype(np.uint16)
        samples = np.concatenate([color, samples[..., 3:]], axis=2)
    return samples[..., [0, -1]] if grey else samples


def opencv_samples(data: bytes) -> np.ndarray | None:
    """Decodes by OpenCV; RGB(A), not turned in PNG files, upright in TIFF files."""
    try:
        samples = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    if samples is None or samples.ndim != 3 or samples.shape[2] not in (3, 4):
        return samples
    return samples[..., [2, 1, 0, 3][: samples.shape[2]]]


def scaled_to_sixteen_bits(
    samples: np.ndarray,
) -> tuple[np.ndarray, tuple[float, float] | None]:
    """Scales integers of 32 bits and floats; returns uint8 or uint16, and (white, black)."""
    if samples.dtype.itemsize < 4:
        return samples, None
    if not np.isfinite(samples).all():
        raise BadImage("values that are not finite")
    low, high = float(samples.min()), float(samples.max())
    usual = 1.0 if samples.dtype.kind == "f" else 65535.0
    if 0 <= low and high <= usual:
        low, high = 0.0, usual
    if high == low:
        high = low + 1
    scaled = (samples.astype(np.float64) - low) / (high - low) * 65535
    return np.round(scaled).astype(np.uint16), (high, low)
