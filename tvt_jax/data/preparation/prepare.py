"""Folders of images to shards: the plan, its tasks, and the manifest of what came out.

Every task depends on the plan alone and leaves a file that is whole or absent. So it does not
matter which process or machine does a task, and after a kill the missing ones are done.

    OUTPUT/plan.json             settings and images; while it is there, the work is unfinished
    OUTPUT/work/hashes-*.json    hashes of the files, from which duplicates are found
    OUTPUT/shards/part-*         shards and their reports
    OUTPUT/manifest.json         what came out; its presence means that everything is done
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from etils import epath

from tvt_jax.config import PAIR_LAYOUTS
from tvt_jax.data import storage
from tvt_jax.data.preparation.shard_writer import (
    Filters,
    Hashed,
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
    read_file,
)
from tvt_jax.errors import UserError
from tvt_jax.images import BadImage

_HASHED_TOGETHER = 200

Task = TypeVar("Task")
# (function, tasks, what is being done): calls the function for every task, in any order.
RunTasks = Callable[[Callable[[Task], None], Sequence[Task], str], None]


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
      max_left_out: share of the images that may be damaged or left out by the filters. What was
        done is kept when there are more, so that a second call with another share ends at once.

    Returns: the manifest.
    Raises:
      UserError: an input is missing or empty, the output belongs to another preparation or cannot
        be written, or too few images are left.
    """
    settings.validate()
    root = storage.as_path(output)
    images = _list_inputs(settings)
    fingerprint = _fingerprint(settings, images)
    with _alone(root):
        manifest = storage.read_json(root / MANIFEST)
        if manifest is not None:
            check_format(manifest, output)
            _check_same(manifest, fingerprint, settings, output)
            return manifest
        _start(root, settings, images, fingerprint)
        unique, failed, duplicates = _find_unique(output, images, run)
        size = settings.shard_size
        parts = [tuple(unique[first : first + size]) for first in range(0, len(unique), size)]
        tasks = [
            ShardTask(output, number, len(parts), fingerprint, settings.filters, part)
            for number, part in enumerate(parts)
        ]
        run(write, [task for task in tasks if finished_report(task) is None], "writing shards")
        manifest = _manifest(settings, fingerprint, len(images), tasks, failed, duplicates)
        _check_enough(manifest, max_left_out)
        storage.write_json(root / MANIFEST, manifest)
        (root / PLAN).unlink(missing_ok=True)
        (root / "work").rmtree(missing_ok=True)
    return manifest


def _check_enough(manifest: dict[str, Any], max_left_out: float) -> None:
    """Raises UserError, with the commonest reasons, where too few images are left."""
    entries = manifest["failed"] + manifest["filtered"]
    found = manifest["images"]["found"]
    if manifest["record_count"] and len(entries) <= max_left_out * found:
        return
    reasons = Counter(entry["reason"] for entry in entries).most_common(3)
    what = "; ".join(f"{count} x {reason}" for reason, count in reasons)
    if not manifest["record_count"]:
        raise UserError(f"none of the {found} images is left: {what}.")
    raise UserError(
        f"{len(entries)} of the {found} images are left out, more than `max_left_out` "
        f"{max_left_out} allows: {what}."
    )


# --------------------------------------------------------------------------------------------------
# The plan
# --------------------------------------------------------------------------------------------------


def _list_inputs(settings: Settings) -> list[Listed]:
    """All images of all inputs; each name starts with its input's."""
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
    """Writes the plan, or checks that the one that is there is this one, and tidies up."""
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
            for left in folder.glob(".*"):  # half a file of a run that was killed
                left.unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(root: epath.Path) -> Iterator[None]:
    """Creates the output folder and keeps a second run on this machine out of it."""
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
        yield  # a killed run's lock is released by the system


# --------------------------------------------------------------------------------------------------
# Hashes and duplicates
# --------------------------------------------------------------------------------------------------


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


def _find_unique(
    output: str, images: list[Listed], run: RunTasks
) -> tuple[list[Hashed], list[dict[str, str]], list[dict[str, str]]]:
    """Hashes all images and keeps the first of equal ones; returns it, failures and duplicates."""
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


# --------------------------------------------------------------------------------------------------
# The manifest
# --------------------------------------------------------------------------------------------------


def _manifest(
    settings: Settings,
    fingerprint: str,
    images: int,
    tasks: list[ShardTask],
    failed: list[dict[str, str]],
    duplicates: list[dict[str, str]],
) -> dict[str, Any]:
    shards, stored, filtered, converted = [], 0, [], Counter()
    digest, sides, failed = hashlib.sha256(), [], list(failed)
    for task in tasks:
        report = finished_report(task)
        if report is None:
            raise UserError(
                f"the shard {task.file} was not finished; run the same command again to go on."
            )
        stored += len(report["images"])
        failed += report["failed"]
        filtered += report["filtered"]
        converted.update(entry["reason"] for entry in report["converted"])
        for record in report["records"]:
            digest.update(record["sha256"].encode())
            sides.append(min(record["width"], record["height"]))
        shards.append(
            {
                "file": f"shards/{task.file.name}",
                "records": report["record_count"],
                "bytes": report["bytes"],
                "sha256": report["sha256"],
            }
        )
    return {
        "format": SHARDS_FORMAT,
        "fingerprint": fingerprint,
        "licence": settings.licence,
        "settings": _as_json(settings),
        "images": {
            "found": images,
            "stored": stored,
            "failed": len(failed),
            "filtered": len(filtered),
            "duplicates": len(duplicates),
        },
        "record_count": sum(shard["records"] for shard in shards),
        "bytes": sum(shard["bytes"] for shard in shards),
        "records_sha256": digest.hexdigest(),
        "shorter_side": {"min": min(sides, default=0), "max": max(sides, default=0)},
        "converted": dict(sorted(converted.items())),
        "shards": shards,
        "failed": failed,
        "filtered": filtered,
        "duplicates": duplicates,
    }
