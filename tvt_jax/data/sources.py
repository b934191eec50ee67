"""Sources of training images: folders of images, folders of shards, and real pairs.

A source has a length and reads any image by its index. Nothing is decoded here.
"""

import dataclasses
import functools
import hashlib
import os
from pathlib import PurePosixPath
from typing import Any, NamedTuple, Protocol

from etils import epath

from tvt_jax.config import PAIR_LAYOUTS, DataConfig
from tvt_jax.data import storage
from tvt_jax.data.pairs import LAYOUTS, folder_pairs, layout_pairs, reduced
from tvt_jax.data.records import decode_record
from tvt_jax.errors import UserError
from tvt_jax.images import BadImage, image_suffixes

MANIFEST = "manifest.json"
PLAN = "plan.json"
SHARDS_FORMAT = "tvt_jax shards 2"


class Sample(NamedTuple):
    """One stored image.

    Attributes:
      name: for messages.
      image: the encoded image.
      lr: the encoded LR image of a real pair.
      tags: of the tagger; empty without tags.
    """

    name: str
    image: bytes
    lr: bytes | None
    tags: tuple[str, ...]


class Source(Protocol):
    """Random access to images. Can be pickled, for worker processes."""

    paired: bool  # whether samples have `lr`
    fingerprint: str  # changes with its list of images

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """The name of a sample for messages, whether or not it can be read."""

    def read(self, index: int) -> Sample:
        """Reads one sample; raises BadImage where that is not possible."""


class Listed(NamedTuple):
    """An image of a folder.

    Attributes:
      name: relative to the folder, for messages and records; that of LR for a data set's pairs.
      path: of the file.
      lr: path of the LR image of a real pair.
      lr_reduction: px of the file `lr` to a px of LR, along each side.
    """

    name: str
    path: str
    lr: str | None = None
    lr_reduction: int = 1


def list_images(folder: str, lr_folder: str = "", layout: str = "") -> list[Listed]:
    """Lists the images of a folder and of all folders below, sorted by name.

    Args:
      folder: local, or `gs://...`.
      lr_folder: where the LR images of real pairs are, under the same relative paths.
      layout: one of `config.PAIR_LAYOUTS`; `folder` then holds HR and LR images.

    Raises:
      UserError: a folder is missing, or nothing is found.
    """
    root = storage.as_path(folder)
    names = _image_names(folder)
    if layout:
        return _list_data_set(root, names, layout)
    if lr_folder:
        lr_root = storage.as_path(lr_folder)
        pairs = folder_pairs(names, _image_names(lr_folder))
        return [Listed(hr, os.fspath(root / hr), os.fspath(lr_root / lr)) for hr, lr in pairs]
    return [Listed(name, os.fspath(root / name)) for name in names]


def _list_data_set(root: epath.Path, names: list[str], layout: str) -> list[Listed]:
    list_name, reduction = LAYOUTS[layout].list_name, LAYOUTS[layout].lr_reduction
    counted = functools.cache(_lines)
    found = []
    for hr, lr in layout_pairs(os.fspath(root), names, layout):
        path = root / hr
        names_that_count = counted(path.parent.parent / list_name) if list_name else None
        if names_that_count is None or path.name in names_that_count:
            found.append(Listed(lr, os.fspath(path), os.fspath(root / lr), reduction))
    if not found:
        raise UserError(
            f"{root} has no images in the layout of {layout}; "
            f"layouts are {', '.join(PAIR_LAYOUTS)}."
        )
    return found


def _lines(path: epath.Path) -> set[str] | None:
    """The lines of a file; None if there is no such file."""
    return set(path.read_text().splitlines()) if path.exists() else None


def _image_names(folder: str) -> list[str]:
    path = storage.as_path(folder)
    storage.check_folder(path)
    suffixes = image_suffixes()
    names = [
        name for name in storage.list_files(path) if PurePosixPath(name).suffix.lower() in suffixes
    ]
    if not names:
        raise UserError(f"{folder} has no images (PNG, JPEG, WebP, TIFF, ...).")
    return names


class FolderSource:
    """The images of a folder, as `list_images` finds them."""

    def __init__(self, images: list[Listed]):
        self._images = images
        self.paired = images[0].lr is not None
        names = "\n".join(image.name for image in images)
        self.fingerprint = hashlib.sha256(names.encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._images)

    def name(self, index: int) -> str:
        """The image's path."""
        return self._images[index].path

    def read(self, index: int) -> Sample:
        """Reads the file or the two files of a sample."""
        image = self._images[index]
        lr = None if image.lr is None else reduced(read_file(image.lr), image.lr_reduction)
        return Sample(image.path, read_file(image.path), lr, ())


def read_file(path: str) -> bytes:
    """Reads an image's file.

    Raises:
      BadImage: it cannot be read.
    """
    try:
        return storage.as_path(path).read_bytes()
    except Exception as error:  # each cloud library raises its own errors, after retries
        reason = getattr(error, "strerror", None) or error
        raise BadImage(f"{path} cannot be read: {reason}") from error


@dataclasses.dataclass(frozen=True)
class _WholeFile:
    """What ArrayRecord's reader needs to know about a file that it does not open up front."""

    filename: str
    examples_in_shard: int
    skip: int = 0

    @property
    def take(self) -> int:
        return self.examples_in_shard


class ShardSource:
    """The records of a folder that `python -m tvt_jax.prepare` wrote.

    Raises:
      UserError: the folder is incomplete or changed.
    """

    def __init__(self, folder: str):
        import grain

        root = storage.as_path(folder)
        manifest = storage.read_json(root / MANIFEST)
        check_format(manifest, folder)
        for shard in manifest["shards"]:
            path = root / shard["file"]
            size = path.stat().length if path.exists() else None
            if size != shard["bytes"]:
                what = "is missing" if size is None else f"has {size} bytes, not {shard['bytes']}"
                raise UserError(f"{folder}: the shard {shard['file']} {what}.")
        self._shards = [(s["file"], s["records"]) for s in manifest["shards"] if s["records"]]
        self._folder = folder
        self._records = grain.sources.ArrayRecordDataSource(
            [_WholeFile(os.fspath(root / file), count) for file, count in self._shards]
        )
        self.paired = bool(manifest["settings"]["paired"])
        self.fingerprint = manifest["records_sha256"]

    def __len__(self) -> int:
        return len(self._records)

    def name(self, index: int) -> str:
        """The shard's file and the number of the record in it."""
        for file, count in self._shards:
            if index < count:
                return f"record {index} of {self._folder}/{file}"
            index -= count
        raise IndexError(index)

    def read(self, index: int) -> Sample:
        """Reads one record."""
        try:
            data = self._records[index]
        except Exception as error:  # ArrayRecord has its own errors for damaged files
            raise BadImage(f"the record cannot be read ({str(error).splitlines()[0]})") from error
        record = decode_record(data)
        return Sample(record.name, record.image, record.lr, record.tags or ())


def check_format(found: dict[str, Any] | None, folder: str) -> None:
    """Checks the plan or the manifest of a folder of shards.

    Raises:
      UserError: it is damaged, or of another version of this project.
    """
    version = (found or {}).get("format")
    if version != SHARDS_FORMAT:
        what = f'has "{version}" and not "{SHARDS_FORMAT}"' if version else "is damaged"
        raise UserError(
            f"{folder} {what}: run `python -m tvt_jax.prepare` again, into another folder."
        )


def open_sources(config: DataConfig) -> list[Source]:
    """Opens the folders that `config.train` lists.

    Raises:
      UserError: a folder is missing, empty or half prepared, or the lists do not fit together.
    """
    folders = _split(config.train)
    lr_folders = _split(config.train_lr)
    if not folders:
        raise UserError("`config.data.train` is empty; give a folder of photographs.")
    if lr_folders and len(lr_folders) != len(folders):
        raise UserError(
            f"`config.data.train_lr` has {len(lr_folders)} folders for {len(folders)} "
            "of `config.data.train`."
        )
    return [
        open_source(folder, lr, config.pairs)
        for folder, lr in zip(folders, lr_folders or [""] * len(folders), strict=True)
    ]


def open_source(folder: str, lr_folder: str = "", layout: str = "") -> Source:
    """Opens a folder of images or of shards; arguments and errors as in `list_images`."""
    root = storage.as_path(folder)
    storage.check_folder(root)
    if (root / MANIFEST).exists():
        return ShardSource(folder)
    if (root / PLAN).exists():
        raise UserError(
            f"{folder} is half prepared; run its `python -m tvt_jax.prepare` command again to "
            "finish it."
        )
    return FolderSource(list_images(folder, lr_folder, layout))


def _split(folders: str) -> list[str]:
    return [part.strip() for part in folders.split(",") if part.strip()]
