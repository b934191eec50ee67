"""The folder of a run: created, checked, and locked against a second run."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

import jax

from tvt_jax.errors import UserError


@contextlib.contextmanager
def own_workdir(workdir: Path) -> Iterator[None]:
    """Creates the folder of a run and locks it against other runs until the block ends.

    The processes of a run share the folder; the first of them holds the lock, which the system
    releases however that process ends.

    Raises:
      UserError: another run is using the folder, or it cannot be written.
    """
    if "://" in str(workdir) or str(workdir).startswith("gs:"):
        raise UserError(
            f"`workdir` {workdir} must be a folder that all processes share: mount the bucket."
        )
    with contextlib.ExitStack() as files:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            probe = workdir / f".writable-{jax.process_index()}"
            probe.touch()
            probe.unlink()
            if jax.process_index() == 0:
                _lock(files.enter_context((workdir / ".lock").open("a")), workdir)
        except OSError as error:
            raise UserError(f"`workdir` {workdir} cannot be written: {error.strerror}.") from error
        yield


def _lock(file, workdir: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(
            f"another run is using `workdir` {workdir}: wait until it ends, or choose another "
            "`workdir`."
        ) from error
    except OSError:  # a file system without locks
        pass
