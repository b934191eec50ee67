"""A file system in memory in the place of Google's, for everything that goes through fsspec."""

import contextlib
import os
import sys
from collections.abc import Iterator

import fsspec
import pytest
from etils.epath import backend
from fsspec.implementations.memory import MemoryFileSystem


@contextlib.contextmanager
def memory_bucket() -> Iterator[MemoryFileSystem]:
    """Gives the empty file system that `gs://` paths are in inside the block."""

    class Bucket(MemoryFileSystem):
        protocol = ("gcs", "gs")
        store, pseudo_dirs = {}, [""]

        @classmethod
        def _strip_protocol(cls, path):
            return "/" + os.fspath(path).split("://")[-1].strip("/")

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules["fsspec.registry"]._registry, "gcs", Bucket)
        backend.fsspec_backend._get_filesystem.cache_clear()
        try:
            yield fsspec.filesystem("gcs")
        finally:
            backend.fsspec_backend._get_filesystem.cache_clear()
