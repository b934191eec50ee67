"""What a worker process does first, and what its parent does before it starts one."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading

import numpy as np

_THREAD_COUNTS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def limit_threads_of_children() -> None:
    """Gives the processes that are started from now on one thread for linear algebra each.

    Their small matrix products would otherwise spin on all cores at once. The libraries read it
    when they are imported, so this must come before the processes start.
    """
    for name in _THREAD_COUNTS:
        os.environ.setdefault(name, "1")


def start_worker() -> None:
    """Prepares a process that works for this program.

    OpenCV keeps to one thread. Ctrl-C, which a terminal sends to all processes, is left to the
    parent. And the process ends when its parent has ended: a parent that is killed leaves its
    workers waiting for it for ever.
    """
    import cv2

    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory for the next arrays instead of handing it to the system.

    For a process that makes arrays of a few megabytes over and over, as degradation does; call it
    once at its start. The system clears every page that it hands out again, which costs a fifth of
    the time. Up to 64 MB stay with the process. Without glibc nothing happens.

    Source: mallopt(3), M_MMAP_THRESHOLD: freeing one block of almost 32 MB, which is never touched,
      raises the limits of what goes back.
    """
    np.empty(31 << 20, np.uint8)


def _end_with(parent) -> None:
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)
