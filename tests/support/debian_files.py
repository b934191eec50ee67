"""Writers of small .deb and .rcc files, by the formats' descriptions."""

import io
import struct
import tarfile
import zlib


def deb(files: dict[str, bytes], compression: str = "xz") -> bytes:
    """A Debian package: an ar archive of a version, control files and data."""
    data = _tar({f"./{path}": content for path, content in files.items()}, compression)
    control = b"Package: small\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.c>\n"
    control += b"Description: small\n"
    members = {
        "debian-binary": b"2.0\n",
        "control.tar.gz": _tar({"./control": control}, "gz"),
        f"data.tar.{compression}": data,
    }
    archive = b"!<arch>\n"
    for name, content in members.items():
        archive += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode()
        archive += content + b"\n" * (len(content) % 2)
    return archive


def _tar(files: dict[str, bytes], compression: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{compression}") as tar:
        for path, content in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def rcc(tree: dict, version: int = 2) -> bytes:
    """A Qt resource file. Folders are dicts; files are bytes, or (bytes,) to have them zipped."""
    data, names, entries = b"", b"", []
    queue = [("", tree)]
    for name, node in queue:
        number = len(entries)
        offset = len(names)
        if number:
            names += struct.pack(">HI", len(name), 1234) + name.encode("utf-16-be")
        if isinstance(node, dict):
            entry = struct.pack(">IHII", offset, 2, len(node), len(queue))
            queue += list(node.items())
        else:
            zipped = isinstance(node, tuple)
            block = node
            if zipped:
                block = struct.pack(">I", len(node[0])) + zlib.compress(node[0])
            entry = struct.pack(">IHHHI", offset, int(zipped), 0, 1, len(data))
            data += struct.pack(">I", len(block)) + block
        entries.append(entry + (b"" if version == 1 else bytes(8)))
    header = 20 + (4 if version == 3 else 0)
    start = (header, header + len(data), header + len(data) + len(names))
    overall = struct.pack(">I", 0) if version == 3 else b""
    numbers = struct.pack(">4I", version, start[2], start[0], start[1])
    return b"qres" + numbers + overall + data + names + b"".join(entries)
