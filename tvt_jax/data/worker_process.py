"""What every process that works on pictures beside the main one does first."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading

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


def _end_with(parent) -> None:
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)
