"""`python -m tvt_jax.tag`: say what is seen in photographs."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from tvt_jax.cli import print_error, run
from tvt_jax.errors import UserError

_READERS = 4  # threads that read images beside the network


def tag(
    model: Path,
    input: list[Path],
    output: Path | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
    batch_size: int | None = None,
    quiet: bool = False,
) -> None:
    """Say what is seen in photographs. Works on all devices of the machine.

    Args:
        model: model folder with a tagger/, as `python -m tvt_jax.convert tagger` writes it, or that
            subfolder itself.
        input: images (PNG, JPEG, WebP, BMP, TIFF, ...), or folders that are searched to the bottom.
        output: JSON file for the tags and every class's probability; images that it lists
            already are kept. `infer --tags` reads it.
        dtype: of the network; bfloat16 is faster on an accelerator and changes some tags.
        batch_size: images that a device works on at a time. Left out: what suits the platform.
        quiet: print nothing but errors.
    """
    from tvt_jax.images import find_images
    from tvt_jax.inference.tag_files import TagFile

    paths = [path for one in input for path, _ in find_images(one)]
    file = None if output is None else TagFile(output)

    from tvt_jax.inference.tagging import load_tagger
    from tvt_jax.progress import progress

    tagger = load_tagger(model, dtype, batch_size)
    readable: list[Path] = []
    images = _read(paths, readable)
    tagged = 0
    with file or contextlib.nullcontext():
        for probabilities in progress(
            tagger.probabilities(images), "tagging", quiet or len(paths) == 1, total=len(paths)
        ):
            path, tags = readable[tagged], tagger.select(probabilities)
            tagged += 1
            if file is not None:
                file.add(path, tags, tagger.names, probabilities)
            if not quiet:
                print(f"{path}: {', '.join(tags)}")
    if file is not None and not quiet:
        print(f"wrote {output}")
    if tagged < len(paths):
        raise UserError(
            f"{len(paths) - tagged} of {len(paths)} images failed, the others are done."
        )


def _read(paths: list[Path], readable: list[Path]) -> Iterator:
    """Yields the images in order, and appends to `readable` the path of each."""
    from tvt_jax.images import read_image

    with ThreadPoolExecutor(_READERS) as pool:
        ahead = []
        for position, path in enumerate(paths):
            while len(ahead) <= 2 * _READERS and position + len(ahead) < len(paths):
                ahead.append(pool.submit(read_image, paths[position + len(ahead)]))
            try:
                image = ahead.pop(0).result()
            except UserError as error:
                print_error(error)
                continue
            readable.append(path)
            yield image


if __name__ == "__main__":
    run(tag, prog="python -m tvt_jax.tag")
