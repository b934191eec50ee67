"""The benchmark's images and degradations."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from tvt_jax.bundled import HELDOUT_PHOTOGRAPHS
from tvt_jax.evaluation.public_benchmark import benchmark_images, cut, degrade
from tvt_jax.images import read_image

IMAGE = read_image(sorted(HELDOUT_PHOTOGRAPHS.glob("*.jpg"))[1])[:256, :320]


def test_crops():
    image = np.arange(600 * 700 * 3).reshape(600, 700, 3)
    np.testing.assert_array_equal(cut(image, (10, 20)), image[20:532, 10:522])
    np.testing.assert_array_equal(cut(image[:427, :641], (10, 20)), image[:424, :640])
    np.testing.assert_array_equal(cut(image[:512, :512], (0, 0)), image[:512, :512])


def test_bicubic_is_antialiased():
    """Against the kernel written out: a = -0.5, four times as wide."""
    low = degrade(IMAGE, "x", "bicubic")
    assert low.shape == (64, 80, 3) and low.dtype == np.uint8

    def weights(count):
        centre = 4 * (np.arange(count // 4)[:, None] + 0.5)
        x = np.abs((np.arange(count)[None] + 0.5 - centre) / 4)
        near = 1.5 * x**3 - 2.5 * x**2 + 1
        far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
        w = np.where(x < 1, near, np.where(x < 2, far, 0))
        return w / w.sum(1, keepdims=True)

    rows = np.tensordot(weights(256), IMAGE.astype(float), 1)
    want = np.einsum("iwc,jw->ijc", rows, weights(320))
    assert np.abs(low - np.clip(want, 0, 255)).max() <= 1.5  # Pillow rounds after each axis


def test_realistic_depends_on_the_name_alone():
    a, again, b = (degrade(IMAGE, name, "realistic") for name in ("a", "a", "b"))
    assert a.shape == (64, 80, 3) and a.dtype == np.uint8
    np.testing.assert_array_equal(a, again)
    assert np.abs(a.astype(int) - b).mean() > 3


def test_realistic_is_blurred_noisy_and_compressed(monkeypatch):
    """What each step gets, over 200 names, on a grey plane with a bright point."""
    saved, kernels, sizes = [], [], []
    plane = np.full((64, 64, 3), 128, np.uint8)
    blur, save, resize = cv2.filter2D, Image.Image.save, Image.Image.resize
    monkeypatch.setattr(
        cv2, "filter2D", lambda x, d, k, **o: kernels.append(k) or blur(x, d, k, **o)
    )
    monkeypatch.setattr(
        Image.Image, "resize", lambda s, size, f: sizes.append((size, f)) or resize(s, size, f)
    )
    monkeypatch.setattr(
        Image.Image,
        "save",
        lambda s, file, kind, **o: saved.append((np.array(s), o)) or save(s, file, kind, **o),
    )
    for number in range(200):
        degrade(plane, f"n{number}", "realistic")
    offsets = np.arange(21) - 10
    spread = np.array(
        [np.einsum("yx,x->", k, offsets**2) + np.einsum("yx,y->", k, offsets**2) for k in kernels]
    )
    assert np.allclose([k.sum() for k in kernels], 1)
    assert spread.min() > 2 * 0.79**2 and spread.max() < 2 * 2.0**2 and np.ptp(spread) > 3
    assert {size for size, _ in sizes} == {(16, 16)}
    assert {f for _, f in sizes} == {
        Image.Resampling.BICUBIC, Image.Resampling.BILINEAR, Image.Resampling.BOX
    }  # fmt: skip
    noise = [image.astype(float) - 128 for image, _ in saved]
    sigma = np.array([n[..., 0].std() for n in noise])
    assert 5 * 0.85 < sigma.min() < 6 and 9 < sigma.max() < 10 * 1.15
    grey = np.mean([(n[..., 0] == n[..., 1]).all() for n in noise])
    assert 0.3 < grey < 0.5
    qualities = {options["quality"] for _, options in saved}
    assert min(qualities) == 40 and max(qualities) == 70
    assert {options["subsampling"] for _, options in saved} == {"4:2:0"}


def test_realistic_is_compressed_last():
    """The result is what a JPEG decoder gives: compressing it once more changes little."""
    low = degrade(IMAGE, "a", "realistic")
    changes = []
    for quality in range(40, 71):
        file = io.BytesIO()
        Image.fromarray(low).save(file, "JPEG", quality=quality, subsampling="4:2:0")
        changes.append(np.abs(np.array(Image.open(file)).astype(int) - low).mean())
    assert min(changes) < 0.5 * np.median(changes)


@pytest.mark.slow  # fetches three wheels, 32 MB, unless they are in the cache
def test_the_nine_images():
    shapes = {name: image.shape[:2] for name, image in benchmark_images().items()}
    small = {"chelsea": (300, 448), "coffee": (400, 600), "china": (424, 640), "flower": (424, 640)}
    whole = ("astronaut", "camera", "brick", "hubble", "grace_hopper")
    assert shapes == {**small, **dict.fromkeys(whole, (512, 512))}
