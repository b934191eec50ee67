"""Which image goes where: every input file with its output file."""

import dataclasses
from pathlib import Path

from tvt_jax.errors import UserError
from tvt_jax.images import WRITABLE, check_readable, find_images


@dataclasses.dataclass(frozen=True)
class Job:
    """One image to do: where it comes from and where it goes."""

    source: Path
    target: Path


def plan_jobs(inputs: list[Path], output: Path) -> list[Job]:
    """Pairs every input image with its output file.

    Args:
      inputs: files, and folders that are searched to the bottom.
      output: a file (with an image's suffix) for one input file, else a folder that mirrors the
        inputs; images in it are PNG.

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
        found = [pair for path in inputs for pair in find_images(path)]
        names = [relative.with_suffix(".png") for _, relative in found]
        # a.jpg and a.tif in one folder keep their suffixes: a.jpg.png, a.tif.png.
        jobs = [
            Job(
                source,
                output
                / (name if names.count(name) == 1 else relative.with_name(relative.name + ".png")),
            )
            for (source, relative), name in zip(found, names, strict=True)
        ]
    sources = {job.source.resolve() for job in jobs}
    for job in jobs:
        if job.target.resolve() in sources:
            raise UserError(f"the output {job.target} would replace an input; choose another.")
    return jobs
