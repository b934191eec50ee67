"""Which image goes where: every input file with its output file."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from tvt_jax.errors import UserError
from tvt_jax.images import WRITABLE, check_readable, find_images


@dataclasses.dataclass(frozen=True)
class Job:
    """One image to do: where it comes from and where it goes."""

    source: Path
    target: Path

    def done(self) -> bool:
        """Whether the output is there; an empty file is none."""
        return self.target.is_file() and self.target.stat().st_size > 0


def plan_jobs(
    inputs: list[Path], output: Path, report: Callable[[str], None] = lambda line: None
) -> list[Job]:
    """Pairs every input image with its output file; no two have the same.

    Args:
      inputs: files, and folders that are searched to the bottom, except for the output folder.
      output: a file (with an image's suffix) for one input file, else a folder that mirrors the
        inputs; images in it are PNG.
      report: takes a line about each folder that is not searched.

    Raises:
      UserError: an input is missing or of no known format, a folder has no images, or an output
        would replace an input.
    """
    if len(inputs) == 1 and inputs[0].is_file() and output.suffix and not output.is_dir():
        if output.suffix.lower() not in WRITABLE:
            raise UserError(f"`output` {output}: write one of {', '.join(WRITABLE)}.")
        check_readable(inputs[0])
        jobs = [Job(inputs[0], output)]
    else:
        if output.is_file():
            raise UserError(f"`output` {output} is a file; several images need a folder.")
        found: dict[Path, tuple[Path, Path, str]] = {}  # a file that is named twice is done once
        for path in inputs:
            inside = path.resolve().name if path.is_dir() else path.resolve().parent.name
            for source, relative in find_images(path, leave_out=output, report=report):
                found.setdefault(source.resolve(), (source, relative, inside))
        targets = _unique_names([named for _, *named in found.values()])
        jobs = [
            Job(source, output / target)
            for (source, *_), target in zip(found.values(), targets, strict=True)
        ]
    sources = {job.source.resolve() for job in jobs}
    for job in jobs:
        if job.target.resolve() in sources:
            raise UserError(f"the output {job.target} would replace an input; choose another.")
    return jobs


def _unique_names(found: list[Sequence]) -> list[Path]:
    """Names of the outputs, of (path below its input, name of the input folder).

    a.jpg becomes a.png; a.jpg and a.tif keep their suffixes, a.jpg.png and a.tif.png; and those of
    the same name in two inputs go below the names of their folders, numbered if that is not enough.
    """
    names = [relative.with_suffix(".png") for relative, _ in found]
    for rename in (
        lambda relative, inside: relative.with_name(relative.name + ".png"),
        lambda relative, inside: Path(inside) / relative.with_name(relative.name + ".png"),
    ):
        # Some file systems do not tell upper from lower case.
        count = Counter(str(name).casefold() for name in names)
        names = [
            rename(*pair) if count[str(name).casefold()] > 1 else name
            for name, pair in zip(names, found, strict=True)
        ]
    taken: set[str] = set()
    for index, name in enumerate(names):
        unique, number = name, 1
        while str(unique).casefold() in taken:
            number += 1
            unique = name.with_name(f"{name.stem}-{number}.png")
        taken.add(str(unique).casefold())
        names[index] = unique
    return names
