"""Files inside of Debian packages and of Qt resource files, read without installing anything."""

import lzma
import shutil
import struct
import subprocess
import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path

from tvt_jax.errors import UserError

_AR_MAGIC = b"!<arch>\n"
_AR_HEADER = 60  # bytes: name 16, times, owners and mode 32, size 10, end 2
_RCC_COMPRESSED, _RCC_FOLDER, _RCC_ZSTD = 1, 2, 4


def debian_package(package: str, folder: Path) -> Path:
    """The file of a package in a folder; downloaded with apt-get if it is not there.

    Args:
      package: name.
      folder: of .deb files as apt-get names them, `NAME_VERSION_ARCHITECTURE.deb`; it is created.

    Raises:
      UserError: the folder has several versions, or the download fails.
    """
    found = sorted(folder.glob(f"{package}_*.deb"))
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise UserError(f"{folder} has several versions of {package} ({names}); keep one.")
    if found:
        return found[0]
    by_hand = f"get {package} from https://packages.debian.org/bookworm/{package} into {folder}"
    if shutil.which("apt-get") is None:
        raise UserError(f"there is no apt-get here; {by_hand}.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}.") from error
    # apt-get writes a file under its final name when it is complete and checked.
    command = ["apt-get", "download", "--quiet", package]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    found = sorted(folder.glob(f"{package}_*.deb"))
    if done.returncode or not found:
        said = [line for line in done.stderr.splitlines() if line.startswith("E:")]
        reason = said[0] if said else f"status {done.returncode}"
        raise UserError(f"apt-get cannot download {package} ({reason}); {by_hand}.")
    return found[0]


def read_debian_package(path: Path, wanted: Iterable[str]) -> dict[str, bytes]:
    """Reads files of a .deb in one pass.

    Args:
      path: the package.
      wanted: paths as installed, without the first slash.

    Returns: content by path; what the package does not have is missing.
    Raises:
      UserError: it cannot be read or is damaged.
    Source: deb(5), ar(5).
    """
    left, found = set(wanted), {}
    try:
        with open(path, "rb") as file:
            _seek_data(file, path)
            # The last member of the archive, so the stream may run to the end of the file.
            with tarfile.open(fileobj=file, mode="r|*") as tar:
                for member in tar:
                    name = member.name.removeprefix("./")
                    if name in left and member.isfile():
                        found[name] = tar.extractfile(member).read()
                        left.remove(name)
                        if not left:
                            break
    except (OSError, EOFError, tarfile.TarError, lzma.LZMAError, zlib.error, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read as a Debian package ({reason}).") from error
    return found


def _seek_data(file, path: Path) -> None:
    """Moves to the start of `data.tar`."""
    if file.read(len(_AR_MAGIC)) != _AR_MAGIC:
        raise UserError(f"{path} is not a Debian package.")
    while len(header := file.read(_AR_HEADER)) == _AR_HEADER:
        if header.startswith(b"data.tar"):
            return
        size = int(header[48:58])
        file.seek(size + size % 2, 1)  # members start at even places
    raise UserError(f"{path} is not a whole Debian package: it has no data.")


def read_rcc(content: bytes, source: str) -> dict[str, bytes]:
    """Reads a binary Qt resource file.

    Args:
      content: the file.
      source: its name, for messages.

    Returns: content by resource path, whose parts are joined with "_".
    Raises:
      UserError: it is damaged, or compressed in a way that is not read here (Zstandard).
    Source: Qt's `qresource.cpp`; all numbers are big-endian.
    """
    if content[:4] != b"qres":
        raise UserError(f"{source} is not a Qt resource file.")
    found: dict[str, bytes] = {}
    try:
        version, tree, data, names = struct.unpack_from(">4I", content, 4)
        entry_size = 14 if version == 1 else 22  # later versions add the time of the last change
        waiting, seen = [(0, ())], {0}
        while waiting:
            number, parents = waiting.pop()
            entry = tree + entry_size * number
            name_offset, flags = struct.unpack_from(">IH", content, entry)
            path = (*parents, _rcc_name(content, names + name_offset)) if number else ()
            if flags & _RCC_FOLDER:
                count, first = struct.unpack_from(">II", content, entry + 6)
                children = range(first, first + count)
                if len(seen) + count > len(content) // entry_size or seen & set(children):
                    raise ValueError("its tree has no end")
                seen |= set(children)
                waiting += [(child, path) for child in children]
            else:
                (offset,) = struct.unpack_from(">I", content, entry + 10)
                found["_".join(path)] = _rcc_data(content, data + offset, flags)
    except (struct.error, zlib.error, ValueError) as error:
        raise UserError(f"{source} is a damaged Qt resource file ({error}).") from error
    return found


def _rcc_name(content: bytes, at: int) -> str:
    (length,) = struct.unpack_from(">H", content, at)
    return content[at + 6 : at + 6 + 2 * length].decode("utf-16-be")  # a hash lies between


def _rcc_data(content: bytes, at: int, flags: int) -> bytes:
    (length,) = struct.unpack_from(">I", content, at)
    block = content[at + 4 : at + 4 + length]
    if len(block) < length:
        raise ValueError("its end is missing")
    if flags & _RCC_ZSTD:
        raise ValueError("compressed with Zstandard, which is not read here")
    return zlib.decompress(block[4:]) if flags & _RCC_COMPRESSED else block
