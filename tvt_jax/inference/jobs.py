"""Which image goes where: every input file with its output file."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from tvt_jax.errors import UserError
from tvt_jax.images import check_readable, find_images, writable_suffixes
from tvt_jax.images.formats import DEFAULT_ENCODING, FORMATS, Encoding, format_of


@dataclasses.dataclass(frozen=True)
class Job:
    """One image to do: where it comes from, where it goes, and as what (a key of `FORMATS`)."""

    source: Path
    target: Path
    format: str

    def done(self) -> bool:
        """Whether the output is there; an empty file is none."""
        return self.target.is_file() and self.target.stat().st_size > 0


def plan_jobs(
    inputs: list[Path],
    output: Path,
    encoding: Encoding = DEFAULT_ENCODING,
    report: Callable[[str], None] = lambda line: None,
) -> list[Job]:
    """Pairs every input image with its output file; no two have the same.

    The name of an output does not depend on what else there is, so that outputs are found again:
    a.jpg becomes a.jpg, or a.jpg.png where the format is another; several folders stay folders.

    Args:
      inputs: files, and folders that are searched to the bottom, except for the output folder.
      output: a file (with an image's suffix) for one input file, else a folder that mirrors the
        inputs.
      encoding: of the outputs.
      report: takes a line about each folder that is not searched, and each kind of file that is
        not read.

    Raises:
      UserError: an input is missing or of no known format, a folder has no images, an output would
        replace an input, or the encoding does not fit the outputs.
    """
    if len(inputs) == 1 and inputs[0].is_file() and output.suffix and not output.is_dir():
        check_readable(inputs[0])
        jobs = [Job(inputs[0], output, _format_of_output(output, encoding))]
    else:
        if output.is_file():
            raise UserError(f"`output` {output} is a file; several images need a folder.")
        jobs = _plan_folder(inputs, output, encoding, report)
    sources = {job.source.resolve() for job in jobs}
    for job in jobs:
        if job.target.resolve() in sources:
            raise UserError(f"the output {job.target} would replace an input; choose another.")
    if encoding.quality is not None and not any(FORMATS[job.format].lossy for job in jobs):
        names = ", ".join(sorted({FORMATS[job.format].name for job in jobs}))
        raise UserError(f"`quality` has no effect on {names}.")
    return jobs


def _format_of_output(output: Path, encoding: Encoding) -> str:
    written = format_of(output)
    if written is None:
        raise UserError(f"`output` {output}: write one of {', '.join(writable_suffixes())}.")
    if encoding.format not in ("auto", written):
        raise UserError(f"`output` {output} is not of the `format` {encoding.format}.")
    return written


def _plan_folder(
    inputs: list[Path], output: Path, encoding: Encoding, report: Callable[[str], None]
) -> list[Job]:
    several = sum(path.is_dir() for path in inputs) > 1
    found: dict[Path, tuple[Path, Path, str]] = {}  # a file that is named twice is done once
    for path in inputs:
        inside = path.resolve().name if path.is_dir() else path.resolve().parent.name
        for source, relative in find_images(path, leave_out=output, report=report):
            below = Path(inside) / relative if several and path.is_dir() else relative
            found.setdefault(source.resolve(), (source, below, inside))
    formats, names = [], []
    for source, below, _ in found.values():
        own = format_of(source)
        formats.append((own or "png") if encoding.format == "auto" else encoding.format)
        changed = below.with_name(below.name + FORMATS[formats[-1]].suffixes[0])
        names.append(below if own == formats[-1] else changed)
    names = _unique_names(names, [inside for *_, inside in found.values()])
    return [
        Job(source, output / name, kind)
        for (source, *_), name, kind in zip(found.values(), names, formats, strict=True)
    ]


def _unique_names(names: Sequence[Path], folders: Sequence[str]) -> list[Path]:
    """Puts names that occur twice below the folders they come from, numbered if need be."""
    # Some file systems do not tell upper from lower case.
    count = Counter(str(name).casefold() for name in names)
    unique: dict[str, Path] = {}
    for name, folder in zip(names, folders, strict=True):
        if count[str(name).casefold()] > 1 and name.parts[0] != folder:
            name = Path(folder) / name
        wanted, number = name, 1
        while str(name).casefold() in unique:
            number += 1
            name = wanted.with_name(f"{wanted.stem}-{number}{wanted.suffix}")
        unique[str(name).casefold()] = name
    return list(unique.values())
