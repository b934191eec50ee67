"""Real pairs: which LR image belongs to an HR image, and how the two lie over each other."""

import re
from pathlib import PurePosixPath

import numpy as np

from tvt_jax.images import BadImage

# The training halves of the public data sets at factor 4, and nothing of their test halves. A rule
# is searched for in the HR image's whole path, so any folder above or in the data set may be
# given. The names of the LR images are tried in their order.
#   RealSR (csjcai/RealSR):   Canon/Train/4/Canon_001_HR.png      Canon/Train/4/Canon_001_LR4.png
#   DRealSR (xiezw5/CDC):     Train_x4/train_HR/DSC_1286_x4.png   Train_x4/train_LR/DSC_1286_x1.png
#   Real-CE (mjq11302010044): train/52mm/0001.JPG                 train/13mm/0001.JPG
_LAYOUTS = {
    "realsr": (r"(.*/train/4/.*)_HR(\.\w+)", (r"\1_LR4\2",)),
    "drealsr": (
        r"(.*/train_x4/train_)HR(/.*?)(_x4)?(\.\w+)",
        (r"\1LR\2_x1\4", r"\1LR\2\3\4"),
    ),
    "realce": (r"(.*/train/)52mm(/.*)", (r"\g<1>13mm\2",)),
}
_MAX_FACTOR = 8


def layout_pairs(root: str, names: list[str], layout: str) -> list[tuple[str, str]]:
    """Finds the pairs of a public data set.

    Args:
      root: the folder as given.
      names: paths of its images, relative to it.
      layout: one of `config.PAIR_LAYOUTS`.

    Returns: (HR, LR) paths relative to `root`, in the order of `names`. Where no LR image is
      there, the path that it should have.
    """
    pattern, lr_names = _LAYOUTS[layout]
    known, prefix, found = set(names), root.rstrip("/") + "/", []
    for name in names:
        match = re.fullmatch(pattern, prefix + name, re.IGNORECASE)
        if match:
            expected = [match.expand(lr)[len(prefix) :] for lr in lr_names]
            found.append((name, next((lr for lr in expected if lr in known), expected[0])))
    return found


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
      hr, lr: [H, W, 3]. HR may be up to an LR pixel larger or smaller than the whole factor says;
        what is beyond is not used.
      crop: side of the crops that are cut out of HR, px; 0: none are.

    Raises:
      BadImage: the sizes do not fit together, or crops do not lie on LR pixels.
    """
    factor = round(hr.shape[1] / lr.shape[1])
    fits = all(abs(hr.shape[axis] - factor * lr.shape[axis]) < factor for axis in (0, 1))
    if not 1 <= factor <= _MAX_FACTOR or not fits:
        sizes = [f"{image.shape[1]}x{image.shape[0]}" for image in (hr, lr)]
        raise BadImage(f"HR {sizes[0]} and LR {sizes[1]} px have no whole factor")
    if crop % factor:
        raise BadImage(f"a crop of {crop} px is no multiple of the pair's factor {factor}")
    return factor
