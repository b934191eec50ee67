"""Real pairs: which LR picture belongs to an HR picture, and how the two lie over each other."""

import re
from pathlib import PurePosixPath

# The training halves of the public data sets at factor 4, and nothing of their test halves. A rule
# is searched for in the HR picture's whole path, so any folder above or in the data set may be
# given. The names of the LR pictures are tried in their order.
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
      names: paths of its pictures, relative to it.
      layout: one of `config.PAIR_LAYOUTS`.

    Returns: (HR, LR) paths relative to `root`, in the order of `names`. Where no LR picture is
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
    """Pairs the pictures of two folders by their relative paths without suffix.

    Returns: (HR name, LR name), in the order of `names`; the LR name is that of the HR picture
      where there is no partner.
    """
    partners = {_stem(name): name for name in lr_names}
    return [(name, partners.get(_stem(name), name)) for name in names]


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def pair_factor(hr_size: tuple[int, int], lr_size: tuple[int, int]) -> int | None:
    """HR pixels per LR pixel along each side, 1 to 8.

    Args:
      hr_size, lr_size: (width, height). The HR picture may be up to a pixel of the LR picture
        larger or smaller than the whole factor says; what is beyond is not used.

    Returns: the factor; None if the sizes do not fit together.
    """
    factor = round(hr_size[0] / lr_size[0])
    if not 1 <= factor <= _MAX_FACTOR:
        return None
    fits = all(abs(hr - factor * lr) < factor for hr, lr in zip(hr_size, lr_size, strict=True))
    return factor if fits else None
