"""A data set as several methods restored it: here, or elsewhere as folders of images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tvt_jax.errors import UserError
from tvt_jax.evaluation.datasets import Dataset, check_same_names, images_by_name
from tvt_jax.evaluation.methods import Restored, check_method, restore_in_own_process
from tvt_jax.progress import progress


class Candidate(NamedTuple):
    """What one method made of a data set.

    Attributes:
      label: what it is called in reports, unique.
      files: its images by the names of the data set.
      restored: what that took; None where it was done elsewhere.
    """

    label: str
    files: dict[str, Path]
    restored: Restored | None = None


def check_candidates(methods: Sequence[str], pred: Sequence[Path]) -> None:
    """Checks names and folders before anything is restored.

    Raises:
      UserError: a method is unknown, something is named twice, or nothing is.
    """
    names = [*methods, *map(str, pred)]
    if len(set(names)) < len(names) or not names:
        raise UserError("name each method once, and at least one.")
    for method in methods:
        check_method(method)


def restore_all(
    methods: Sequence[str],
    pred: Sequence[Path],
    dataset: Dataset,
    folder: Path,
    untimed: Mapping[str, Path] | None = None,
    quiet: bool = False,
) -> list[Candidate]:
    """Restores a data set with all methods, one process after the other.

    Args:
      methods: of `methods.METHODS`, and model folders.
      pred: folders of images restored elsewhere, by the names of the data set.
      dataset: its low resolution is restored.
      folder: of the results, a folder for each method by its label.
      untimed: more images to restore, whose time does not count.
      quiet: no progress bar.

    Returns: methods first, in the order given.
    Raises:
      UserError: the names of `pred` and the data set differ, or a method fails.
    """
    labels = _labels([*methods, *map(str, pred)])
    elsewhere = []
    for path in pred:
        files = images_by_name(path, "`pred`")
        check_same_names(str(path), files, f"the data set {dataset.name}", dataset.high)
        elsewhere.append(Candidate(labels[str(path)], files))
    here = []
    for method in progress(methods, "restoring", quiet):
        target = folder / labels[method]
        restored = restore_in_own_process(method, dataset.low, target, untimed)
        files = {name: target / f"{name}.png" for name in (*dataset.low, *(untimed or ()))}
        here.append(Candidate(labels[method], files, restored))
    return here + elsewhere


def _labels(names: Sequence[str]) -> dict[str, str]:
    """What each method is called: its name, or its folder's; in full where that is not unique."""
    short = {name: Path(name).name or name for name in names}
    taken = [*short.values(), "hr", "lr", "text"]
    return {
        name: label if taken.count(label) == 1 else name.replace("/", "_")
        for name, label in short.items()
    }
