"""Folders of images to shards: the plan and the order of the work.

Every task depends only on the plan and writes a file that is complete or absent: any process on any
machine can do it, and after an interruption only missing files are made.

    OUTPUT/plan.json             settings and number of images; exists while work is unfinished
    OUTPUT/work/hashes-*.json    hashes of the files, from which duplicates are found
    OUTPUT/shards/part-*         shards and their reports
    OUTPUT/manifest.json         what is stored and what is not; exists when everything is done
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from etils import epath

from tvt_jax.config import PAIR_LAYOUTS
from tvt_jax.data import storage
from tvt_jax.data.preparation.duplicates import find_unique
from tvt_jax.data.preparation.manifest import check_enough, make_manifest
from tvt_jax.data.preparation.runners import RunTasks
from tvt_jax.data.preparation.shard_writer import (
    Filters,
    ShardTask,
    finished_report,
    write_shard,
)
from tvt_jax.data.sources import (
    MANIFEST,
    PLAN,
    SHARDS_FORMAT,
    Listed,
    check_format,
    list_images,
)
from tvt_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to prepare, and how. Two runs with equal settings on equal images give equal shards.

    Attributes:
      input: folders of images.
      paired_lr: folders of their LR images, in the same order; or none.
      pairs: one of `config.PAIR_LAYOUTS` if the folders hold real pairs in such a layout.
      shard_size: images in a shard.
      tagger: folder of the tagger that fills in the tags, for the manifest.
      licence: note on what may be done with the images, for the manifest.
    """

    input: tuple[str, ...]
    paired_lr: tuple[str, ...] = ()
    pairs: str = ""
    filters: Filters = Filters()
    shard_size: int = 100
    tagger: str = ""
    licence: str = ""

    def validate(self) -> None:
        """Raises UserError when settings contradict each other."""
        if self.paired_lr and len(self.paired_lr) != len(self.input):
            raise UserError(
                f"`paired_lr` has {len(self.paired_lr)} folders for {len(self.input)} of `input`."
            )
        if self.paired_lr and self.pairs:
            raise UserError("give either `paired_lr` or `pairs`, not both.")
        if self.pairs and self.pairs not in PAIR_LAYOUTS:
            raise UserError(f"`pairs` {self.pairs} is not one of {', '.join(PAIR_LAYOUTS)}.")
        if min(self.filters.crop, self.filters.resize) < 0:
            raise UserError("`crop` and `resize` must not be negative.")
        if min(self.filters.min_side, self.shard_size) < 1:
            raise UserError("`min_side` and `shard_size` must be positive.")
        if not 0 <= self.filters.max_flat <= 1:
            raise UserError(f"`max_flat` {self.filters.max_flat} is not between 0 and 1.")
        if self.filters.resize and (self.paired_lr or self.pairs):
            raise UserError("`resize` is for images without real LR: those keep their size.")
        if 0 < self.filters.resize < max(self.filters.crop, self.filters.min_side):
            raise UserError("`resize` must be at least `crop` and `min_side`, or 0.")


def prepare_shards(
    output: str,
    settings: Settings,
    run: RunTasks,
    write: Callable[[ShardTask], None] = write_shard,
    max_left_out: float = 0.5,
) -> dict[str, Any]:
    """Prepares everything, or what an interrupted run left undone.

    Args:
      output: folder to write; absent, empty, or of the same preparation.
      settings: what to do.
      run: who does the tasks: `runners.run_in_processes`, `runners.run_on_beam`, ...
      write: `write_shard`, or the same with a tagger.
      max_left_out: share of the images that may be damaged or left out by the filters. The
        work is kept if there are more, so that a second call with another share ends at once.

    Returns: the manifest.
    Raises:
      UserError: an input is missing or empty, the output belongs to another preparation or cannot
        be written, or too few images are left.
    """
    settings.validate()
    root = storage.as_path(output)
    images = _list_inputs(settings)
    fingerprint = _fingerprint(settings, images)
    with _locked(root):
        manifest = storage.read_json(root / MANIFEST)
        if manifest is not None:
            check_format(manifest, output)
            _check_same(manifest, fingerprint, settings, output)
            return manifest
        _start(root, settings, images, fingerprint)
        unique, failed, duplicates = find_unique(output, images, run)
        size = settings.shard_size
        parts = [tuple(unique[first : first + size]) for first in range(0, len(unique), size)]
        tasks = [
            ShardTask(output, number, len(parts), fingerprint, settings.filters, part)
            for number, part in enumerate(parts)
        ]
        run(write, [task for task in tasks if finished_report(task) is None], "writing shards")
        manifest = make_manifest(
            _as_json(settings), fingerprint, len(images), tasks, failed, duplicates
        )
        check_enough(manifest, max_left_out)
        storage.write_json(root / MANIFEST, manifest)
        (root / PLAN).unlink(missing_ok=True)
        (root / "work").rmtree(missing_ok=True)
    return manifest


def _list_inputs(settings: Settings) -> list[Listed]:
    """All images of all inputs; the name of an image starts with the name of its input folder."""
    paths = [storage.as_path(folder) for folder in settings.input]
    paths = [path.resolve() if storage.is_local(path) else path for path in paths]
    if len(set(paths)) < len(paths):
        raise UserError("`input` names a folder twice.")
    labels = [path.name for path in paths]
    if len(set(labels)) < len(labels):
        labels = [folder.rstrip("/") for folder in settings.input]
    found = []
    for number, (folder, label) in enumerate(zip(settings.input, labels, strict=True)):
        lr = settings.paired_lr[number] if settings.paired_lr else ""
        for listed in list_images(folder, lr, settings.pairs):
            found.append(listed._replace(name=f"{label}/{listed.name}"))
    return found


def _fingerprint(settings: Settings, images: list[Listed]) -> str:
    text = json.dumps([dataclasses.asdict(settings), images], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _check_same(found: dict, fingerprint: str, settings: Settings, output: str) -> None:
    if found.get("fingerprint") == fingerprint:
        return
    then, now = found.get("settings", {}), _as_json(settings)
    changed = [
        f"{key}: {then.get(key)!r} then, {now[key]!r} now"
        for key in now
        if then.get(key) != now[key]
    ]
    what = "; ".join(changed) or "images were added or removed since"
    raise UserError(f"`output` {output} holds another preparation ({what}); choose another folder.")


def _as_json(settings: Settings) -> dict[str, Any]:
    """The settings as they are in the plan and the manifest."""
    paired = bool(settings.paired_lr or settings.pairs)
    return json.loads(json.dumps({**dataclasses.asdict(settings), "paired": paired}))


def _start(root: epath.Path, settings: Settings, images: list[Listed], fingerprint: str) -> None:
    """Writes the plan, or checks that the existing one is this one; removes half-written files."""
    plan = storage.read_json(root / PLAN)
    if plan is not None:
        check_format(plan, str(root))
        _check_same(plan, fingerprint, settings, str(root))
    else:
        if root.exists() and any(not path.name.startswith(".") for path in root.iterdir()):
            raise UserError(f"`output` {root} is not empty and holds no preparation.")
        plan = {
            "format": SHARDS_FORMAT,
            "fingerprint": fingerprint,
            "settings": _as_json(settings),
            "images": len(images),
        }
        storage.write_json(root / PLAN, plan)
    for folder in (root / "work", root / "shards"):
        folder.mkdir(exist_ok=True)
        if storage.is_local(folder):
            for left in folder.glob(".*"):  # of a run that was killed
                left.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(root: epath.Path) -> Iterator[None]:
    """Creates the output folder and locks out other runs on this machine."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        if not storage.is_local(root):
            yield
            return
        lock = Path(root / ".lock").open("a")
    except OSError as error:
        raise UserError(f"`output` {root} cannot be written: {error.strerror or error}.") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"another run is writing to `output` {root}.") from error
        yield  # the system releases the lock of a killed run
