"""Data sets of low and high resolution images, and images that belong together by their names."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from tvt_jax.errors import UserError
from tvt_jax.evaluation.methods import SCALE
from tvt_jax.images import find_images, image_suffixes

_SHOWN = 5  # names in a message
# StableSR's test sets: folder, number of pairs, side of the high resolution in px.
KNOWN = {
    "realsr": ("RealSRVal_crop128", 100, 512),
    "drealsr": ("DrealSRVal_crop128", 93, 512),
    "div2k-val": ("DIV2K_V2_val", 3000, 512),
}
_LAYOUTS = (("test_LR", "test_HR"), ("lq", "gt"), ("lr", "hr"))
# Where copies of Urban100 have their high resolution, and how many images there are.
_URBAN100, _URBAN100_COUNT = ("HR", "image_SRF_4", "image_SRF_2", "."), 100


class Dataset(NamedTuple):
    """Images to restore and what they should become.

    Attributes:
      name: key of `KNOWN`, or a folder.
      low: files by name, a quarter as large as `high`.
      high: files by the same names.
    """

    name: str
    low: dict[str, Path]
    high: dict[str, Path]


def find_dataset(name: str, root: Path) -> Dataset:
    """Finds a data set and checks it; no pixels are read.

    Args:
      name: key of `KNOWN`, or a folder; each has folders test_LR and test_HR, lq and gt, or lr and
        hr, with images of equal names.
      root: where the known ones lie, directly or in `StableSR_testsets/`.

    Raises:
      UserError: a folder or an image is missing, or the number or a size of images is wrong.
    """
    if name in KNOWN:
        folder_name, count, side = KNOWN[name]
        candidates = [root / folder_name, root / "StableSR_testsets" / folder_name]
        folder = next((f for f in candidates if f.is_dir()), None)
        if folder is None:
            raise UserError(
                f"`dataset` {name}: there is no {candidates[0]}; unpack StableSR_testsets.zip "
                "(Iceclear/StableSR-TestSets on Hugging Face) and name its folder by `data`."
            )
    else:
        folder, count, side = Path(name), None, None
        if not folder.is_dir():
            raise UserError(f"`dataset` {name} is no folder, and none of {', '.join(KNOWN)}.")
    layout = next((f for f in _LAYOUTS if (folder / f[0]).is_dir()), None)
    if layout is None or not (folder / layout[1]).is_dir():
        raise UserError(f"{folder} has no folders test_LR and test_HR, or lq and gt.")
    low, high = images_by_name(folder / layout[0]), images_by_name(folder / layout[1])
    check_same_names(str(folder / layout[0]), low, str(folder / layout[1]), high)
    if count is not None and len(high) != count:
        raise UserError(f"{folder} has {len(high)} pairs, and {name} has {count}; unpack it anew.")
    for image, path in high.items():
        size = _size(path)
        if side is not None and size != (side, side):
            raise UserError(f"{path} is {size[0]}x{size[1]} px, and {name} has {side}x{side}.")
        small = _size(low[image])
        if size != (SCALE * small[0], SCALE * small[1]):
            raise UserError(
                f"{path} is {size[0]}x{size[1]} px and {low[image]} is {small[0]}x{small[1]}; the "
                f"first must be {SCALE} times as large."
            )
    return Dataset(name, low, high)


def find_urban100(root: Path) -> list[tuple[Path, Path]]:
    """Finds Urban100, the set of the paper's Table 1.

    Args:
      root: its folder, or the one that has it; of its authors' archive, whose names end in _HR and
        _LR, or of a copy with a folder HR.

    Returns: files, each with its name.
    Raises:
      UserError: it is not there, or there are not 100 images.
    """
    folders = ("Urban100", "Urban100_SR", ".")
    places = [root / folder / part for folder in folders for part in _URBAN100]
    for place in filter(Path.is_dir, places):
        files = [path for path in place.iterdir() if path.suffix.lower() in image_suffixes()]
        high = [path for path in files if path.stem.endswith("_HR")]
        if high or files:
            found = sorted(high or files)
            if len(found) != _URBAN100_COUNT:
                raise UserError(
                    f"{place} has {len(found)} images, and Urban100 has {_URBAN100_COUNT}; unpack "
                    "it anew."
                )
            return [(path, Path(path.name)) for path in found]
    raise UserError(f"there is no Urban100 with images in `data` {root}.")


def images_by_name(folder: Path, parameter: str = "`dataset`") -> dict[str, Path]:
    """Images of a folder and below, by their path below it without suffix.

    Args:
      folder: searched to the bottom.
      parameter: that named it, for messages.

    Raises:
      UserError: it is missing or has no images, or two have one name.
    """
    found: dict[str, Path] = {}
    for path, relative in find_images(folder, parameter):
        name = relative.with_suffix("").as_posix()
        if name in found:
            raise UserError(f"{found[name]} and {path} have one name; keep one of them.")
        found[name] = path
    return found


def check_same_names(a: str, names_a: Iterable[str], b: str, names_b: Iterable[str]) -> None:
    """Compares the names of two folders' images; `a` and `b` are what to call the folders.

    Raises:
      UserError: a name is missing in one of them.
    """
    names_a, names_b, parts = set(names_a), set(names_b), []
    for folder, missing in ((b, names_a - names_b), (a, names_b - names_a)):
        if missing:
            shown = ", ".join(sorted(missing)[:_SHOWN])
            more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
            parts.append(f"{folder} lacks {shown}{more}")
    if parts:
        raise UserError(f"images must have the same names: {'; '.join(parts)}.")


def _size(path: Path) -> tuple[int, int]:
    """(width, height) of an image file, px."""
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is not a readable image ({error}).") from error
