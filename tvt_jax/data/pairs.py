"""Real pairs: which LR image belongs to an HR image, and how the two align."""

import re
from pathlib import PurePosixPath
from typing import NamedTuple

import cv2
import numpy as np

from tvt_jax.images import BadImage, decode_image, encode_png

_MAX_FACTOR = 8


class Layout(NamedTuple):
    """How the training half of a public data set of factor 4 names its images.

    Attributes:
      hr: matches the whole path of an HR image, so that any folder above or inside the data set may
        be given.
      lr: for each pair that an HR image is in, the names that its LR image may have.
      lr_reduction: px of a stored LR image to a px of LR, along each side.
      list_name: name of a file that lists the HR images to use, one per line; without it all are
        used.
    """

    hr: str
    lr: tuple[tuple[str, ...], ...]
    lr_reduction: int = 1
    list_name: str = ""


# RealSR (csjcai/RealSR):   Canon/Train/4/Canon_001_HR.png      Canon/Train/4/Canon_001_LR4.png
# DRealSR (xiezw5/CDC):     Train_x4/train_HR/DSC_1286_x4.png   Train_x4/train_LR/DSC_1286_x1.png
# Real-CE (mjq11302010044): train/52mm/0001.JPG                 train/{13,26,52}mm/0001.JPG
# Real-CE stores a scene's three focal lengths registered at one size, lists the scenes to use,
# and its authors train on all three, reduced (52 mm as its own LR).
LAYOUTS = {
    "realsr": Layout(r"(.*/train/4/.*)_HR(\.\w+)", ((r"\1_LR4\2",),)),
    "drealsr": Layout(
        r"(.*/train_x4/train_)HR(/.*?)(_x4)?(\.\w+)", ((r"\1LR\2_x1\4", r"\1LR\2\3\4"),)
    ),
    "realce": Layout(
        r"(.*/train/)52mm(/.*)",
        ((r"\g<1>13mm\2",), (r"\g<1>26mm\2",), (r"\g<1>52mm\2",)),
        lr_reduction=4,
        list_name="valid_list.txt",
    ),
}


def layout_pairs(root: str, names: list[str], layout: str) -> list[tuple[str, str]]:
    """Finds the pairs of a public data set.

    Args:
      root: the folder as given.
      names: paths of its images, relative to it.
      layout: one of `config.PAIR_LAYOUTS`.

    Returns: (HR, LR) paths relative to `root`, in the order of `names`. A missing LR
      image is given with the path that it should have.
    """
    known, prefix, found = set(names), root.rstrip("/") + "/", []
    for name in names:
        match = re.fullmatch(LAYOUTS[layout].hr, prefix + name, re.IGNORECASE)
        for lr_names in LAYOUTS[layout].lr if match else ():
            expected = [match.expand(lr)[len(prefix) :] for lr in lr_names]
            found.append((name, next((lr for lr in expected if lr in known), expected[0])))
    return found


def reduced(data: bytes, factor: int) -> bytes:
    """Makes LR of an image as Real-CE's loader does: cubic interpolation without smoothing.

    Args:
      data: the encoded image.
      factor: px of it per px of LR along each side; remainders are not cut off.

    Returns: LR as PNG; `data` itself for a factor of 1.
    Raises:
      BadImage: the image cannot be decoded or is too small.
    Source: mjq11302010044/Real-CE, data loader for factor 4.
    """
    if factor == 1:
        return data
    pixels = decode_image(data, min_side=factor).pixels
    size = (pixels.shape[1] // factor, pixels.shape[0] // factor)
    small = cv2.resize(pixels.astype(np.float32), size, interpolation=cv2.INTER_CUBIC)
    return encode_png(np.clip(np.rint(small), 0, 255).astype(np.uint8))


def folder_pairs(names: list[str], lr_names: list[str]) -> list[tuple[str, str]]:
    """Pairs the images of two folders by their relative paths without suffix.

    Returns: (HR name, LR name), in the order of `names`; the LR name is that of the HR image
      where there is no partner.
    """
    partners = {_stem(name): name for name in lr_names}
    return [(name, partners.get(_stem(name), name)) for name in names]


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def pair_factor(hr: np.ndarray, lr: np.ndarray, crop: int) -> int:
    """HR pixels per LR pixel along each side, 1 to 8.

    Args:
      hr, lr: [H, W, 3]. HR may differ from the whole factor by up to an LR pixel; the excess is not
        used.
      crop: side of the HR crops, px; 0: no crops.

    Raises:
      BadImage: the sizes do not fit together, or crops do not align with LR pixels.
    """
    factor = round(hr.shape[1] / lr.shape[1])
    fits = all(abs(hr.shape[axis] - factor * lr.shape[axis]) < factor for axis in (0, 1))
    if not 1 <= factor <= _MAX_FACTOR or not fits:
        sizes = [f"{image.shape[1]}x{image.shape[0]}" for image in (hr, lr)]
        raise BadImage(f"HR {sizes[0]} and LR {sizes[1]} px have no whole factor")
    if crop % factor:
        raise BadImage(f"a crop of {crop} px is no multiple of the pair's factor {factor}")
    return factor
