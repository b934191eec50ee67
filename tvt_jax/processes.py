"""A run of several processes: how they find each other, and how they end together."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator

import jax

from tvt_jax.errors import UserError

# A process that dies silently (killed, out of memory) ends the others after this time.
_LIVENESS = {"heartbeat_timeout_seconds": 30}
# Keys that the processes of a run share.
_FAILED, _STATUS, _ENDED = "tvt_jax/failed", "tvt_jax/status", "tvt_jax/ended"
_WATCH_SECONDS = 2.0


def start_processes() -> None:
    """Joins the processes of a run on several machines; call it before anything touches a device.

    The machines are found through SLURM, Kubernetes, Open MPI or the TPU's metadata, or through
    three environment variables: JAX_COORDINATOR_ADDRESS (host:port of process 0),
    JAX_NUM_PROCESSES and JAX_PROCESS_ID.

    Raises:
      UserError: the other processes were not found.
    """
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    given = [name for name in names if os.environ.get(name)]
    if given and len(given) < len(names):
        missing = ", ".join(name for name in names if name not in given)
        raise UserError(f"{given[0]} is set and {missing} is not; set all three or none.")
    try:
        if given:
            address, processes, index = (os.environ[name] for name in names)
            jax.distributed.initialize(address, int(processes), int(index), **_LIVENESS)
        else:
            jax.distributed.initialize(**_LIVENESS)
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"the processes of the run did not find each other "
            f"({str(error).splitlines()[0]}); set {', '.join(names)}."
        ) from error


@contextlib.contextmanager
def ending_together(report: Callable[[BaseException], int]) -> Iterator[None]:
    """Ends all processes of a run when one of them fails in the block.

    Otherwise the rest would wait for it forever in their next collective. They are ended
    immediately, with the same exit status; unwritten work is lost.

    Args:
      report: prints an error and returns the exit status; called in the process that fails first.
    """
    if jax.process_count() == 1:
        yield
        return
    from jax._src import distributed  # the only way to the store that the processes share

    client, done = distributed.global_state.client, threading.Event()
    watch = threading.Thread(target=_end_with_others, args=(client, done), daemon=True)
    watch.start()
    try:
        yield
    except SystemExit:  # a signal stopped all of them after the same step
        raise
    except BaseException as error:
        done.set()
        watch.join()
        try:
            client.key_value_set(_FAILED, "")
        except jax.errors.JaxRuntimeError:  # another process was first
            _end_like_the_first(client)
        status = report(error)
        client.key_value_set(_STATUS, str(status))
        _end(client, status)
    finally:
        done.set()


def _end_with_others(client, done: threading.Event) -> None:
    """Waits until a process has failed, and then ends this one."""
    while not done.wait(_WATCH_SECONDS):
        try:
            client.key_value_try_get(_FAILED)
        except jax.errors.JaxRuntimeError:  # nobody has failed
            continue
        _end_like_the_first(client)


def _end_like_the_first(client) -> None:
    """Ends this process with the status of the one that failed first."""
    status = 1
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # it is gone
        status = int(client.blocking_key_value_get(_STATUS, int(5000 * _WATCH_SECONDS)))
    _end(client, status)


def _end(client, status: int) -> None:
    """Ends this process at once: a regular exit would wait for the others."""
    sys.stdout.flush()
    sys.stderr.flush()
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # the first process is gone already
        client.key_value_set(f"{_ENDED}/{jax.process_index()}", "")
        deadline = time.monotonic() + 5 * _WATCH_SECONDS
        # The store is the first process's: it stays until the others have read the failure.
        while jax.process_index() == 0 and time.monotonic() < deadline:
            if len(client.key_value_dir_get(_ENDED)) == jax.process_count():
                break
            time.sleep(0.1)
    os._exit(status)
