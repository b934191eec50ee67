"""Running the tasks of a preparation: in processes, in threads, or on Apache Beam."""

import multiprocessing
import shlex
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from tvt_jax.data.worker_process import limit_threads_of_children, start_worker
from tvt_jax.errors import UserError
from tvt_jax.progress import progress

Task = TypeVar("Task")
# (function, tasks, what is being done): calls the function for every task, in any order.
RunTasks = Callable[[Callable[[Task], None], Sequence[Task], str], None]


def run_in_processes(jobs: int, quiet: bool) -> RunTasks:
    """Does the tasks in `jobs` processes, with a progress bar; one job needs no process."""

    def run(function: Callable[[Task], None], tasks: Sequence[Task], what: str) -> None:
        if min(jobs, len(tasks)) < 2:
            for task in progress(tasks, what, quiet or not tasks):
                function(task)
            return
        limit_threads_of_children()
        # Spawned, because threads and locks of this process do not survive a fork.
        context = multiprocessing.get_context("spawn")
        workers = min(jobs, len(tasks))
        with ProcessPoolExecutor(workers, context, initializer=start_worker) as pool:
            _wait(pool, function, tasks, what, quiet)

    return run


def run_in_threads(jobs: int, quiet: bool) -> RunTasks:
    """Does the tasks in threads, which share what is on the accelerator (a tagger)."""

    def run(function: Callable[[Task], None], tasks: Sequence[Task], what: str) -> None:
        with ThreadPoolExecutor(jobs) as pool:
            _wait(pool, function, tasks, what, quiet)

    return run


def _wait(
    pool: Executor, function: Callable[[Task], None], tasks: Sequence[Task], what: str, quiet: bool
) -> None:
    futures = [pool.submit(function, task) for task in tasks]
    try:
        for future in progress(futures, what, quiet or not tasks):
            future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process died, perhaps out of memory; what is finished is kept. Run the "
            "same command again with fewer `jobs`."
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def run_on_beam(runner: str, options: str) -> RunTasks:
    """Does the tasks as an Apache Beam pipeline; all its machines must see the same folders.

    Args:
      runner: Beam's name of the runner: DirectRunner, FlinkRunner, DataflowRunner, ...
      options: more of Beam's options, as on a command line.

    Raises:
      UserError: Beam is not installed, does not know the runner, or the pipeline fails.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise UserError(
            "`runner` needs Apache Beam: pip install -r requirements-beam.txt into an environment "
            "of its own."
        ) from error

    def run(function: Callable[[Task], None], tasks: Sequence[Task], what: str) -> None:
        if not tasks:
            return
        try:
            settings = PipelineOptions(shlex.split(options), runner=runner)
            with beam.Pipeline(options=settings) as pipeline:
                _ = (
                    pipeline
                    | "tasks" >> beam.Create(list(tasks))
                    | "spread" >> beam.Reshuffle()
                    # Beam cannot read every type annotation; a lambda has none.
                    | what >> beam.Map(lambda task: function(task))
                )
        except Exception as error:  # each runner has its own kinds of errors
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
            raise UserError(f"`runner` {runner}: {what} failed ({reason}).") from error

    return run
