"""Reading and writing pictures, and matching inputs to outputs."""

import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image

from tvt_jax.errors import UserError
from tvt_jax.files import atomic_file
from tvt_jax.images import BadPicture, decode_picture

READABLE = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
WRITABLE = READABLE


@dataclasses.dataclass(frozen=True)
class Job:
    """One picture to do: where it comes from and where it goes."""

    source: Path
    target: Path


def plan_jobs(inputs: list[Path], output: Path) -> list[Job]:
    """Pairs every input picture with its output file.

    Args:
      inputs: files, and folders that are searched to the bottom.
      output: a file (with a picture's suffix) for one input file, else a folder that mirrors the
        inputs; pictures in it are PNG.

    Raises:
      UserError: an input is missing or of no known format, a folder has no pictures, or an output
        would replace an input.
    """
    if len(inputs) == 1 and inputs[0].is_file() and output.suffix and not output.is_dir():
        if output.suffix.lower() not in WRITABLE:
            raise UserError(f"--output {output}: write one of {', '.join(WRITABLE)}.")
        _check_format(inputs[0])
        jobs = [Job(inputs[0], output)]
    else:
        if output.is_file():
            raise UserError(f"--output {output} is a file; several pictures need a folder.")
        found = [pair for path in inputs for pair in find_pictures(path)]
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


def find_pictures(path: Path, option: str = "--input") -> list[tuple[Path, Path]]:
    """Lists the pictures of a file, or of a folder and below, each with its path relative to it.

    Args:
      path: the file or folder.
      option: where it comes from, for messages.

    Raises:
      UserError: `path` is missing, or no picture, or a folder without pictures.
    """
    if path.is_file():
        _check_format(path, option)
        return [(path, Path(path.name))]
    if not path.is_dir():
        raise UserError(f"{option} {path} does not exist.")
    found = sorted(
        p
        for p in path.rglob("*")
        if p.suffix.lower() in READABLE and p.is_file() and not p.name.startswith(".")
    )
    if not found:
        raise UserError(f"{option} {path} has no pictures ({', '.join(READABLE)}).")
    return [(p, p.relative_to(path)) for p in found]


def _check_format(path: Path, option: str = "--input") -> None:
    if path.suffix.lower() not in READABLE:
        raise UserError(f"{option} {path} is not one of {', '.join(READABLE)}.")


def read_image(path: Path) -> np.ndarray:
    """Reads a picture as RGB, by the rules of `tvt_jax.images.decode_picture`.

    Returns: [H, W, 3] uint8.
    Raises:
      UserError: the file cannot be read, is damaged, or of a kind that those rules refuse.
    """
    try:
        return decode_picture(path.read_bytes()).pixels
    except (OSError, BadPicture) as error:
        raise UserError(f"{path} is not a readable picture ({error}).") from error


def write_image(path: Path, image: np.ndarray) -> None:
    """Writes [H, W, 3] uint8 in the format of the suffix; complete or not at all.

    Raises:
      UserError: the folder cannot be written.
    """
    suffix = path.suffix.lower()
    options = {"quality": 95, "subsampling": 0} if suffix in (".jpg", ".jpeg") else {}
    if suffix == ".webp":
        options = {"lossless": True}
    with atomic_file(path) as temporary:
        file_format = Image.registered_extensions()[suffix]
        Image.fromarray(image).save(temporary, format=file_format, **options)
