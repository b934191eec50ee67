"""Equal images: found by the hashes of their files, and stored once."""

import dataclasses
import hashlib

from etils import epath

from tvt_jax.data import storage
from tvt_jax.data.preparation.runners import RunTasks
from tvt_jax.data.preparation.shard_writer import Hashed
from tvt_jax.data.sources import Listed, read_file
from tvt_jax.images import BadImage

_HASHED_TOGETHER = 200


@dataclasses.dataclass(frozen=True)
class _HashTask:
    output: str
    number: int
    images: tuple[Listed, ...]

    @property
    def file(self) -> epath.Path:
        return storage.as_path(self.output) / "work" / f"hashes-{self.number:05d}.json"


def _hash_images(task: _HashTask) -> None:
    """Writes a list of [sha256, sha256 of LR or null] or, in its place, of a reason of failure."""
    found = []
    for image in task.images:
        try:
            paths = [image.path] if image.lr is None else [image.path, image.lr]
            digests = [hashlib.sha256(read_file(path)).hexdigest() for path in paths]
            found.append([*digests, None][:2])
        except BadImage as error:
            found.append(str(error))
    storage.write_json(task.file, found)


def _hashes(task: _HashTask) -> list | None:
    """What a task found; None if it is to be done."""
    found = storage.read_json(task.file)
    return found if found is not None and len(found) == len(task.images) else None


def find_unique(
    output: str, images: list[Listed], run: RunTasks
) -> tuple[list[Hashed], list[dict[str, str]], list[dict[str, str]]]:
    """Hashes all images and keeps the first of equal ones.

    Args:
      output: folder of the preparation.
      images: pairs are equal where HR and LR are.
      run: who does the tasks.

    Returns: (what is kept, failures by name and reason, duplicates by name and the kept one's).
    """
    tasks = [
        _HashTask(output, number, tuple(images[first : first + _HASHED_TOGETHER]))
        for number, first in enumerate(range(0, len(images), _HASHED_TOGETHER))
    ]
    run(_hash_images, [task for task in tasks if _hashes(task) is None], "hashing")
    first: dict[tuple, str] = {}
    unique, failed, duplicates = [], [], []
    hashes = [found for task in tasks for found in _hashes(task)]
    for image, found in zip(images, hashes, strict=True):
        if isinstance(found, str):
            failed.append({"name": image.name, "reason": found})
        elif tuple(found) in first:
            duplicates.append({"name": image.name, "same_as": first[tuple(found)]})
        else:
            first[tuple(found)] = image.name
            unique.append(Hashed(image, *found))
    return unique, failed, duplicates
