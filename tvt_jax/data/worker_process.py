"""Set-up of worker processes, in the worker and in its parent."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading

import numpy as np

_THREAD_COUNTS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def limit_threads_of_children() -> None:
    """Limits processes started from now on to one thread of linear algebra each.

    Their small matrix products would otherwise spin on all cores. The libraries read the limit when
    they are imported, so this must come before the processes start.
    """
    for name in _THREAD_COUNTS:
        os.environ.setdefault(name, "1")


def start_worker() -> None:
    """Initialises a worker process.

    OpenCV uses one thread. Ctrl-C, which a terminal sends to all processes, is left to the parent.
    The process ends with its parent: workers of a killed parent would otherwise wait forever.
    """
    import cv2

    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory for the next arrays instead of handing it to the system.

    For a process that allocates arrays of a few megabytes over and over, as degradation does;
    call it once at the start. The kernel clears every page that it hands out again, which costs a
    fifth of the time. Up to 64 MB stay with the process. Does nothing without glibc.

    Source: mallopt(3), M_MMAP_THRESHOLD: freeing one untouched block of almost 32 MB raises the
      thresholds.
    """
    np.empty(31 << 20, np.uint8)


def _end_with(parent) -> None:
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)
