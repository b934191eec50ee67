"""Local folders and `gs://` buckets behind the same functions; files appear when complete.

`gs://` needs the package gcsfs (or tensorflow) beside etils, and Google's usual credentials.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etils import epath

from tvt_jax.errors import UserError
from tvt_jax.files import atomic_file


def as_path(text: str | os.PathLike[str]) -> epath.Path:
    """The path of a local file or of an object in a bucket."""
    text = os.path.expanduser(text)
    if text.startswith("gs:/") and not text.startswith("gs://"):  # pathlib joins slashes
        text = text.replace("gs:/", "gs://", 1)
    return epath.Path(text)


def is_local(path: epath.Path) -> bool:
    """Whether the path is in the file system of this machine."""
    return "://" not in os.fspath(path)


@contextlib.contextmanager
def reaching(path: epath.Path) -> Iterator[None]:
    """Turns whatever goes wrong with a bucket in the block into a UserError that names `path`."""
    try:
        yield
    except UserError:
        raise
    except ImportError as error:
        raise UserError(
            f"{path}: buckets need one more package ({error.name or error}); `pip install gcsfs`."
        ) from error
    except Exception as error:  # each cloud library raises its own errors
        raise UserError(f"{path} cannot be reached ({error}).") from error


def check_folder(path: epath.Path) -> None:
    """Raises UserError unless the path is a folder that can be read."""
    with reaching(path):
        found = path.is_dir()
    if not found:
        raise UserError(f"{path} is not a folder.")


def list_files(folder: epath.Path) -> list[str]:
    """Paths of all files in a folder and below, relative to it, sorted; hidden ones are left out.

    Raises:
      UserError: a folder in it cannot be read.
    """

    def fail(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}.") from error

    base, found = _key(folder), []
    for place, folders, files in folder.walk(on_error=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = _key(place)[len(base) + 1 :]
        prefix = f"{inside}/" if inside else ""
        found += [prefix + name for name in files if name and not name.startswith(".")]
    return sorted(found)


def _key(path: epath.Path) -> str:
    """The path without protocol; walking a bucket does not give it back."""
    return os.fspath(path).split("://")[-1].strip("/")


def write_json(path: epath.Path, value: Any) -> None:
    """Writes JSON that is complete or absent, even after a crash of the machine.

    Raises:
      UserError: the folder cannot be written.
    """
    data = json.dumps(value, indent=1, ensure_ascii=False).encode()
    if not is_local(path):
        path.write_bytes(data)  # objects appear when complete
        return
    with atomic_file(Path(path)) as temporary:
        temporary.write_bytes(data)
        _flush_to_disk(temporary)


def read_json(path: epath.Path) -> Any:
    """Reads JSON; None if the file is missing or damaged."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def move(source: Path, target: epath.Path) -> None:
    """Gives a complete local file its final name, or uploads it to a bucket."""
    if not is_local(target):
        with source.open("rb") as data, target.open("wb") as copy:
            shutil.copyfileobj(data, copy)
        return
    _flush_to_disk(source)
    os.replace(source, target)


def _flush_to_disk(path: Path) -> None:
    """Waits until a file's content is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
