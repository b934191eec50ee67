"""Which files of a folder are images."""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tvt_jax.errors import UserError
from tvt_jax.images.formats import image_suffixes


def find_images(
    path: Path,
    parameter: str = "`input`",
    leave_out: Path | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> list[tuple[Path, Path]]:
    """Lists the images of a file, or of a folder and below, each with its path relative to it.

    Args:
      path: the file or folder. Hidden files and folders are not searched.
      parameter: where it comes from, for messages.
      leave_out: a folder that is not searched.
      report: takes a line about each folder that is not searched because it is a link or cannot be
        read, and about files of formats that are not read.

    Raises:
      UserError: `path` is missing, or no image, or a folder without images.
    """
    if path.is_file():
        check_readable(path, parameter)
        return [(path, Path(path.name))]
    if not path.is_dir():
        raise UserError(f"{parameter} {path} does not exist.")
    suffixes, found = image_suffixes(), []
    left_out = None if leave_out is None else leave_out.resolve()
    for folder, folders, files in os.walk(path, onerror=lambda error: report(f"left out: {error}")):
        inside = Path(folder)
        found += [inside / n for n in files if not n.startswith(".")]
        folders[:] = [n for n in folders if not n.startswith(".")]
        links = [n for n in folders if (inside / n).is_symlink()]
        for name in links:
            report(f"left out: {inside / name} is a link to a folder")
        folders[:] = [n for n in folders if n not in links and (inside / n).resolve() != left_out]
    others = Counter(p.suffix.lower() or p.name for p in found if p.suffix.lower() not in suffixes)
    found = sorted(p for p in found if p.suffix.lower() in suffixes)
    if others:
        kinds = ", ".join(f"{name} ({number})" for name, number in sorted(others.items()))
        report(f"left out: files in {path} of formats that are not read here: {kinds}")
    for broken in [p for p in found if not p.is_file()]:
        report(f"left out: {broken} is no file, or a link to none")
        found.remove(broken)
    if not found:
        raise UserError(f"{parameter} {path} has no images (PNG, JPEG, WebP, TIFF, ...).")
    return [(p, p.relative_to(path)) for p in found]


def check_readable(path: Path, parameter: str = "`input`") -> None:
    """Raises UserError unless the suffix is that of a format that is read here."""
    if path.suffix.lower() not in image_suffixes():
        raise UserError(
            f"{parameter} {path} is of no image format that can be read (PNG, JPEG, WebP, ...)."
        )
