"""Pairs of the public data sets are found, and only of their training halves."""

import numpy as np
import pytest

from tvt_jax.config import PAIR_LAYOUTS
from tvt_jax.data.pairs import _LAYOUTS, folder_pairs, layout_pairs, pair_factor
from tvt_jax.images import BadImage

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
    assert layout_pairs("/Real-CE", REALCE, "realce") == [("train/52mm/a.JPG", "train/13mm/a.JPG")]


def test_a_folder_inside_the_data_set_may_be_given():
    names = ["Canon_001_HR.png", "Canon_001_LR4.png"]
    assert layout_pairs("/RealSR/Canon/Train/4", names, "realsr") == [tuple(names)]
    assert layout_pairs("/RealSR/Canon/Test/4", names, "realsr") == []


def test_the_configuration_names_the_layouts():
    assert set(PAIR_LAYOUTS) == set(_LAYOUTS)


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
