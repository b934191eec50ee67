"""PNG files are read back by Pillow and OpenCV as they were written."""

import cv2
import numpy as np
import pytest
from PIL import Image

from tvt_jax import png


@pytest.mark.parametrize("shape", [(1, 1), (37, 53), (37, 53, 2), (64, 7, 3), (5, 300, 4)])
def test_eight_bits(tmp_path, shape, monkeypatch):
    monkeypatch.setattr(png, "_BAND", 1000)  # several bands
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    png.write_png(tmp_path / "a.png", image, [(b"pHYs", bytes(8) + b"\1")])
    with Image.open(tmp_path / "a.png") as read:
        assert (
            read.mode
            == {0: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[image.shape[2] if image.ndim == 3 else 0]
        )
        np.testing.assert_array_equal(np.asarray(read), image)


@pytest.mark.parametrize("shape", [(37, 53), (64, 7, 3)])
def test_sixteen_bits(tmp_path, shape):
    image = np.random.default_rng(0).integers(0, 2**16, shape, np.uint16)
    png.write_png(tmp_path / "a.png", image)
    read = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(read[..., ::-1] if image.ndim == 3 else read, image)


def test_smooth_images_become_small(tmp_path):
    """About as small as Pillow makes them."""
    y, x = np.mgrid[:200, :300]
    image = np.stack([120 + 90 * np.sin(x / 40 + c) * np.cos(y / 30) for c in range(3)], -1)
    image = image.astype(np.uint8)
    png.write_png(tmp_path / "ours.png", image)
    Image.fromarray(image).save(tmp_path / "pillow.png")
    ours, pillow = ((tmp_path / f"{n}.png").stat().st_size for n in ("ours", "pillow"))
    assert ours < 1.2 * pillow < image.nbytes
