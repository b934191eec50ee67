"""Reading and writing pictures, and matching inputs to outputs."""

import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from tvt_jax.atomic_write import atomic_file
from tvt_jax.errors import UserError

READABLE = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
WRITABLE = READABLE
_SIXTEEN_BIT_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I")


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


def find_pictures(path: Path) -> list[tuple[Path, Path]]:
    """Lists the pictures of a file, or of a folder and below, each with its path relative to it.

    Raises:
      UserError: `path` is missing, or no picture, or a folder without pictures.
    """
    if path.is_file():
        _check_format(path)
        return [(path, Path(path.name))]
    if not path.is_dir():
        raise UserError(f"--input {path} does not exist.")
    found = sorted(
        p
        for p in path.rglob("*")
        if p.suffix.lower() in READABLE and p.is_file() and not p.name.startswith(".")
    )
    if not found:
        raise UserError(f"--input {path} has no pictures ({', '.join(READABLE)}).")
    return [(p, p.relative_to(path)) for p in found]


def _check_format(path: Path) -> None:
    if path.suffix.lower() not in READABLE:
        raise UserError(f"--input {path} is not one of {', '.join(READABLE)}.")


def read_image(path: Path) -> np.ndarray:
    """Reads a picture as RGB, turned the way its EXIF orientation says.

    Transparency is dropped, and 16-bit grey is reduced to 8 bits.

    Returns: [H, W, 3] uint8.
    Raises:
      UserError: the file cannot be read, or is damaged.
    """
    try:
        with Image.open(path) as picture:
            picture.load()
            picture = ImageOps.exif_transpose(picture)
            if picture.mode in _SIXTEEN_BIT_MODES:
                # Pillow's own conversion clips instead of scaling.
                grey = np.clip(np.asarray(picture), 0, 65535) // 257
                picture = Image.fromarray(grey.astype(np.uint8))
            return np.array(picture.convert("RGB"))
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, EOFError) as error:
        raise UserError(f"{path} is not a readable picture ({error}).") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{path} is too large a picture ({error}).") from error


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
