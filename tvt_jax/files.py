"""Files and folders that appear under their name only when complete; JSON files; hashes."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from tvt_jax.errors import UserError


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside `path`; renames it to `path` if the block ends well.

    Raises:
      UserError: the folder cannot be written or the disk is full; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}.") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """Gives a temporary folder beside `path`; renames it to `path` if the block ends well.

    Args:
      replace: a folder that is there already makes room for the new one.

    Raises:
      UserError: `path` exists and is not an empty folder, or cannot be written.
    """
    if not replace and path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UserError(f"{path} exists already; remove it or choose another output folder.")
    temporary, old = (path.with_name(f".{path.name}.{n}-{os.getpid()}") for n in ("partial", "old"))
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        if path.exists():
            os.replace(path, old)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}.") from error
    finally:
        for folder in (temporary, old):
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Says whether no other process is making the file `path`, and keeps them from it meanwhile.

    The system gives up a claim when its process ends, however it ends.

    Raises:
      UserError: the folder cannot be written.
    """
    claim = path.with_name(f".{path.name}.claim")
    with contextlib.ExitStack() as files:
        try:
            claim.parent.mkdir(parents=True, exist_ok=True)
            ours = _lock(files.enter_context(claim.open("a")))
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror or error}.") from error
        try:
            yield ours
        finally:
            if ours:
                claim.unlink(missing_ok=True)


def _lock(file: TextIO) -> bool:
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # Windows, or a file system without locks
        pass
    return True


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
      UserError: the file is missing or is not a JSON object.
    """
    check_is_file(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); download it again.") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} does not hold a JSON object; download it again.")
    return values


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes a JSON object with sorted keys and a final newline."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def check_is_file(path: Path) -> None:
    """Raises UserError unless `path` is a file."""
    if path.is_dir():
        raise UserError(f"{path} is a folder, and a file is wanted here.")
    if not path.is_file():
        raise UserError(f"{path} does not exist.")


def sha256(path: Path) -> str:
    """Hash of a file's content, without reading all of it into memory."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
