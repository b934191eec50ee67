"""The folder of a run: created, checked, and locked against a second run; local or in a bucket."""

import contextlib
import fcntl
import os
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import jax
from etils import epath

from tvt_jax.data.storage import as_path, is_local, move, reaching
from tvt_jax.errors import UserError

# A lock in a bucket is rewritten this often, and given up when it was not for this long. Seconds.
_BEAT, _LOST = 20.0, 90.0


class Workdir:
    """The folder of a run.

    Attributes:
      path: the folder; checkpoints are read and written there directly.
      local: where everything else is written: the same folder, or a temporary one that `upload`
        copies to the bucket.
    """

    def __init__(self, path: epath.Path, local: Path):
        self.path, self.local = path, local
        self._uploaded: dict[Path, tuple[int, int]] = {}

    def upload(self) -> None:
        """Copies to the bucket, if the folder is in one, what is new since the last time.

        Raises:
          UserError: the bucket cannot be written.
        """
        if is_local(self.path) or jax.process_index() > 0:
            return
        with reaching(self.path):
            for file in sorted(file for file in self.local.rglob("*") if file.is_file()):
                version = file.stat().st_size, file.stat().st_mtime_ns
                if self._uploaded.get(file) != version:
                    move(file, self.path / file.relative_to(self.local).as_posix())
                    self._uploaded[file] = version


@contextlib.contextmanager
def own_workdir(path: str | os.PathLike[str]) -> Iterator[Workdir]:
    """Creates the folder of a run and locks it against other runs until the block ends.

    The processes of a run share the folder; the first of them holds the lock. On a disk, the system
    releases it however that process ends. In a bucket, a run that was killed is taken for one that
    goes on, for a minute and a half.

    Raises:
      UserError: another run is using the folder, or it cannot be written.
    """
    workdir = as_path(path)
    if is_local(workdir):
        with _own_folder(Path(workdir)):
            yield Workdir(workdir, Path(workdir))
        return
    with contextlib.ExitStack() as stack:
        if jax.process_index() == 0:
            stack.enter_context(_own_bucket_folder(workdir))
        local = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tvt_jax-")))
        run = Workdir(workdir, local)
        with reaching(workdir):
            logged = workdir / "metrics.jsonl"  # a resumed run appends to it
            if logged.exists():
                (local / "metrics.jsonl").write_bytes(logged.read_bytes())
        try:
            yield run
        except BaseException:
            with contextlib.suppress(UserError):  # the first error is the one to show
                run.upload()
            raise
        run.upload()


@contextlib.contextmanager
def _own_folder(folder: Path) -> Iterator[None]:
    with contextlib.ExitStack() as files:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".writable-{jax.process_index()}"
            probe.touch()
            probe.unlink()
            if jax.process_index() == 0:
                _lock(files.enter_context((folder / ".lock").open("a")), folder)
        except OSError as error:
            raise UserError(f"`workdir` {folder} cannot be written: {error.strerror}.") from error
        yield


def _lock(file, folder: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _in_use(folder) from error
    except OSError:  # a file system without locks
        pass


@contextlib.contextmanager
def _own_bucket_folder(folder: epath.Path) -> Iterator[None]:
    lock = folder / ".lock"
    with reaching(folder):
        _wait_until_free(lock)
        lock.write_text(uuid.uuid4().hex)
    done = threading.Event()

    def beat() -> None:
        while not done.wait(_BEAT):
            with contextlib.suppress(Exception):  # the network; there is a next time
                lock.write_text(uuid.uuid4().hex)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        with contextlib.suppress(Exception):  # it ends by itself
            lock.unlink(missing_ok=True)


def _wait_until_free(lock: epath.Path) -> None:
    """Returns when there is no lock, or none that a run keeps up."""
    found, deadline = _read(lock), time.monotonic() + _LOST
    while (now := _read(lock)) is not None and time.monotonic() < deadline:
        if now != found:
            raise _in_use(lock.parent)
        time.sleep(_BEAT / 4)


def _read(lock: epath.Path) -> str | None:
    try:
        return lock.read_text()
    except FileNotFoundError:
        return None


def _in_use(folder: os.PathLike[str]) -> UserError:
    return UserError(
        f"another run is using `workdir` {folder}: wait until it ends, or choose another `workdir`."
    )
