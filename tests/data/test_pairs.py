"""Pairs of the public data sets are found, and only of their training halves."""

import numpy as np
import pytest

from tests.support.image_files import noise
from tvt_jax.config import PAIR_LAYOUTS
from tvt_jax.data.pairs import LAYOUTS, folder_pairs, layout_pairs, pair_factor, reduced
from tvt_jax.images import BadImage, decode_image, encode_png

REALSR = [
    "Canon/Test/4/Canon_002_HR.png",
    "Canon/Test/4/Canon_002_LR4.png",
    "Canon/Train/2/Canon_001_HR.png",
    "Canon/Train/2/Canon_001_LR2.png",
    "Canon/Train/4/Canon_001_HR.png",
    "Canon/Train/4/Canon_001_LR4.png",
    "Nikon/Train/4/Nikon_007_HR.png",
]
DREALSR = [
    "x2/Train_x2/train_HR/DSC_1_x2.png",
    "x4/Test_x4/test_HR/DSC_9_x4.png",
    "x4/Train_x4/train_HR/DSC_1_x4.png",
    "x4/Train_x4/train_HR/panasonic_2.png",
    "x4/Train_x4/train_LR/DSC_1_x1.png",
    "x4/Train_x4/train_LR/panasonic_2.png",
]
REALCE = ["train/13mm/a.JPG", "train/26mm/a.JPG", "train/52mm/a.JPG", "val/52mm/b.JPG"]


def test_realsr():
    found = layout_pairs("/data/RealSR(V3)", REALSR, "realsr")
    assert found == [
        ("Canon/Train/4/Canon_001_HR.png", "Canon/Train/4/Canon_001_LR4.png"),
        ("Nikon/Train/4/Nikon_007_HR.png", "Nikon/Train/4/Nikon_007_LR4.png"),  # not there
    ]


def test_drealsr():
    folder = "x4/Train_x4/train_"
    assert layout_pairs("gs://bucket/DRealSR/", DREALSR, "drealsr") == [
        (f"{folder}HR/DSC_1_x4.png", f"{folder}LR/DSC_1_x1.png"),
        (f"{folder}HR/panasonic_2.png", f"{folder}LR/panasonic_2.png"),
    ]


def test_realce():
    """Every focal length is LR of the longest, that one too; the test half is left alone."""
    assert layout_pairs("/Real-CE", REALCE, "realce") == [
        ("train/52mm/a.JPG", f"train/{focal_length}mm/a.JPG") for focal_length in (13, 26, 52)
    ]


def test_a_folder_inside_the_data_set_may_be_given():
    names = ["Canon_001_HR.png", "Canon_001_LR4.png"]
    assert layout_pairs("/RealSR/Canon/Train/4", names, "realsr") == [tuple(names)]
    assert layout_pairs("/RealSR/Canon/Test/4", names, "realsr") == []


def test_the_configuration_names_the_layouts():
    assert set(PAIR_LAYOUTS) == set(LAYOUTS)


def test_two_folders_pair_by_name_without_suffix():
    assert folder_pairs(["a.png", "s/b.png", "c.png"], ["a.jpg", "b.png", "s/b.png"]) == [
        ("a.png", "a.jpg"),
        ("s/b.png", "s/b.png"),
        ("c.png", "c.png"),
    ]


@pytest.mark.parametrize(
    ("hr", "lr", "factor"),
    [
        ((400, 300), (100, 75), 4),
        ((403, 301), (100, 75), 4),
        ((100, 75), (100, 75), 1),
        ((404, 300), (100, 75), None),
        ((400, 300), (100, 100), None),
        ((100, 75), (400, 300), None),
        ((900, 900), (100, 100), None),
    ],
)
def test_factors(hr, lr, factor):
    images = [np.zeros((height, width, 3), np.uint8) for width, height in (hr, lr)]
    if factor is None:
        with pytest.raises(BadImage, match=r"HR .* and LR .* have no whole factor"):
            pair_factor(*images, 0)
        return
    assert pair_factor(*images, 0) == pair_factor(*images, 2 * factor) == factor
    if factor > 1:
        with pytest.raises(BadImage, match="no multiple of the pair's factor"):
            pair_factor(*images, 2 * factor + 1)


def test_reduction():
    """Cubic interpolation with a = -0.75 at the middle of each 4x4 block, not smoothed before."""
    image = noise(3, 42, 47)
    got = decode_image(reduced(encode_png(image), 4)).pixels
    assert got.shape == (10, 11, 3)
    # The taps of OpenCV's cubic kernel half-way between two pixels.
    taps = np.array([-0.09375, 0.59375, 0.59375, -0.09375])
    even = noise(4, 40, 48).astype(np.float64)
    rows = np.einsum("k,akwc->awc", taps, even.reshape(10, 4, 48, 3))
    want = np.einsum("k,abkc->abc", taps, rows.reshape(10, 12, 4, 3))
    got = decode_image(reduced(encode_png(even.astype(np.uint8)), 4)).pixels
    assert np.abs(got - np.clip(want, 0, 255)).max() <= 0.51
    assert reduced(b"anything", 1) == b"anything"
    with pytest.raises(BadImage, match="smaller than 4"):
        reduced(encode_png(noise(1, 3, 9)), 4)
