"""From an image file to an image file, with everything that networks do not see."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tvt_jax.errors import UserError
from tvt_jax.images.formats import FORMATS, Encoding, check_fits
from tvt_jax.images.photograph import read_photograph
from tvt_jax.images.writing import memory_to_write, write_photograph
from tvt_jax.inference.options import RestorationOptions
from tvt_jax.inference.sizing import plan_sizes


class Written(NamedTuple):
    """What became of a file.

    Attributes:
      size: (width, height) of the output, px.
      tags: what the prompt said is seen in it.
      notes: what could not be kept, and why.
    """

    size: tuple[int, int]
    tags: tuple[str, ...]
    notes: tuple[str, ...]


def upscale_file(
    upscale: Callable,
    source: Path,
    target: Path,
    file_format: str,
    options: RestorationOptions,
    encoding: Encoding,
    tags: Sequence[str] | None = None,
    all_frames: bool = False,
) -> Written:
    """Upscales an image file.

    A large one that is interrupted goes on where it was when the call is repeated: until it is
    done, it lies in a folder beside the target, which only one process may write at a time.

    Args:
      upscale: `Upscaler.upscale`.
      source, target: the files.
      file_format: of the target, a key of `FORMATS`.
      options, tags: as of `Upscaler.upscale`; all frames have the tags of the first.
      encoding: of the target.
      all_frames: of an animation, or all pages.

    Raises:
      UserError: as `Upscaler.upscale`; the source cannot be read; the target cannot be written, or
        its format has no images of that size, which is said before the work.
    """
    photograph = read_photograph(source, all_frames)
    size = plan_sizes(*photograph.size, options.scale).output
    check_fits(file_format, *size)
    if len(photograph.frames) > 1 and not FORMATS[file_format].frames:
        raise UserError(
            f"{FORMATS[file_format].name} holds one frame; choose another `format`, or leave out "
            "`all_frames`."
        )
    unfinished, images = target.with_name(f".{target.name}.unfinished"), []
    to_write = memory_to_write(photograph, file_format)
    for number, frame in enumerate(photograph.frames):
        folder = unfinished / str(number)
        image, tags = upscale(frame.rgb, options, tags, folder=folder, to_write=to_write)
        images.append(image)
    notes = write_photograph(target, photograph, images, file_format, encoding)
    shutil.rmtree(unfinished, ignore_errors=True)
    return Written(size, tuple(tags), (*photograph.notes, *notes))
