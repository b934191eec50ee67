"""Tags in a JSON file, so that they can be looked at, changed by hand and used again.

    {"classes": ["cat", "tree", ...],
     "images": {"photographs/a.jpg": {"tags": ["cat"], "probabilities": [0.93, 0.12, ...]}}}

Paths are relative to the file's own folder. `classes` and `probabilities`, one of each class, are
there for images that `python -m tvt_jax.tag` tagged; what counts is `tags`.
"""

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tvt_jax.errors import UserError
from tvt_jax.files import atomic_file, read_json

# Each writing takes as long as the file is large: after every image would be quadratic.
_SECONDS_BETWEEN_WRITES = 30


class TagFile:
    """Tags of images by path; written at the end of a `with` block, however it ends.

    Args:
      path: of the JSON file; it is read if it exists.

    Raises:
      UserError: the file holds something else.
    """

    def __init__(self, path: Path):
        self.path = path
        self._classes: list[str] | None = None
        self._images: dict[Path, dict[str, Any]] = {}
        self._changed = False
        self._written = time.monotonic()
        if path.exists():
            self._read()

    def _read(self) -> None:
        content = read_json(self.path)
        images = content.get("images")
        if not isinstance(images, dict) or not all(map(_is_entry, images.values())):
            raise UserError(
                f"{self.path} is not a file of tags, which looks like this: "
                '{"images": {"a.jpg": {"tags": ["cat", "tree"]}}}.'
            )
        self._classes = content.get("classes")
        self._images = {(self.path.parent / name).resolve(): e for name, e in images.items()}

    def __enter__(self) -> "TagFile":
        return self

    def __exit__(self, *error) -> None:
        self.write()

    def __contains__(self, image: Path) -> bool:
        return image.resolve() in self._images

    def __getitem__(self, image: Path) -> list[str]:
        """Tags of an image; KeyError if the file has none of it."""
        return self._images[image.resolve()]["tags"]

    def add(
        self,
        image: Path,
        tags: list[str],
        classes: Sequence[str] | None = None,
        probabilities: np.ndarray | None = None,
    ) -> None:
        """Adds or replaces an image, and now and then writes the file; `write` does so at once.

        Args:
          tags: what is seen in it.
          classes, probabilities: of every class, [K]; None to leave them out.

        Raises:
          UserError: the file has the probabilities of other classes, or cannot be written.
        """
        entry: dict[str, Any] = {"tags": tags}
        if classes is not None:
            if self._classes not in (None, list(classes)):
                raise UserError(
                    f"{self.path} was written with another tagger; choose another file."
                )
            self._classes = list(classes)
            entry["probabilities"] = probabilities
        self._images[image.resolve()] = entry
        self._changed = True
        if time.monotonic() - self._written >= _SECONDS_BETWEEN_WRITES:
            self.write()

    def write(self) -> None:
        """Writes the file if anything was added; complete or not at all. An image takes one line.

        Raises:
          UserError: the folder cannot be written.
        """
        if not self._changed:
            return
        base = self.path.parent.resolve()
        with atomic_file(self.path) as temporary, open(temporary, "w", encoding="utf-8") as out:
            classes = "" if self._classes is None else f'"classes": {_json(self._classes)},\n'
            out.write("{" + classes + '"images": {')
            for number, (image, entry) in enumerate(sorted(self._images.items())):
                name = Path(os.path.relpath(image, base)).as_posix()
                out.write(f"{',' if number else ''}\n{_json(name)}: {_json(entry)}")
            out.write("\n}}\n")
        self._changed, self._written = False, time.monotonic()


def _is_entry(entry: Any) -> bool:
    tags = entry.get("tags") if isinstance(entry, dict) else None
    return isinstance(tags, list) and all(isinstance(tag, str) for tag in tags)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=_rounded)


def _rounded(probabilities: np.ndarray) -> list[float]:
    # They stay arrays until here: lists take eight times the memory.
    return np.round(probabilities.astype(np.float64), 6).tolist()
