"""Images as callers have them: arrays, images of Pillow, paths, and several of these."""

import contextlib
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from tvt_jax.images.photograph import read_photograph, take_apart
from tvt_jax.images.writing import put_together

ImageLike = np.ndarray | jax.Array | Image.Image | str | Path
Upscale = Callable[[np.ndarray], np.ndarray]
Progress = Callable[[int, int], None]


def no_progress(done: int, total: int) -> None:
    """Shows nothing."""


def upscale_all(
    workers: Sequence[Upscale], images: Sequence[ImageLike], progress: Progress
) -> list[np.ndarray | Image.Image]:
    """Upscales several images, one at a time on each worker; the results are in their order.

    Args:
      workers: each takes and returns [H, W, 3] uint8 or uint16, sRGB.
      images: as of `upscale_any`.
      progress: takes how many images are done and how many there are.

    Raises: as `upscale_any`.
    """
    free = queue.SimpleQueue()
    for worker in workers:
        free.put(worker)

    def work(image: ImageLike) -> np.ndarray | Image.Image:
        worker = free.get()
        try:
            return upscale_any(worker, image)
        finally:
            free.put(worker)

    results = []
    with contextlib.ExitStack() as stack:
        run = map
        if len(workers) > 1:
            run = stack.enter_context(ThreadPoolExecutor(len(workers))).map
        for result in run(work, images):
            results.append(result)
            progress(len(results), len(images))
    return results


def upscale_any(upscale: Upscale, image: ImageLike) -> np.ndarray | Image.Image:
    """Upscales an array, giving an array; or an image of Pillow or a file, giving one of Pillow.

    Raises:
      TypeError: the image is none of these.
      UserError: a file cannot be read.
    """
    if isinstance(image, np.ndarray | jax.Array):
        return upscale(np.asarray(image))
    if isinstance(image, str | Path):
        photograph = read_photograph(Path(image))
    elif isinstance(image, Image.Image):
        photograph = take_apart(image)
    else:
        raise TypeError(
            "`image` must be an array, an image of Pillow, a path, or a list of these, not "
            f"{type(image).__name__}."
        )
    return put_together(photograph, upscale(photograph.frames[0].rgb))
