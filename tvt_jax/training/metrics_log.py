"""The metrics of a run: in `metrics.jsonl`, in TensorBoard and on the progress bar."""

import contextlib
import dataclasses
import json
import math
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tvt_jax.errors import UserError
from tvt_jax.files import atomic_file


@dataclasses.dataclass(frozen=True)
class StepRecord:
    """A step that has been dispatched.

    Attributes:
      step: its number, from 1.
      metrics: scalars that may still be under way on the device.
    """

    step: int
    metrics: dict[str, jax.Array]


class MetricsLog:
    """Writes scalars and images by step.

    Args:
      workdir: folder of the run.
      start: number of steps done already; later records (of a run that died before its next
        checkpoint) are dropped.
      steps: length of the run.
      quiet: no progress bar.
      write: write files; false in all processes of a run but one.

    Raises:
      UserError: the disk is full or the folder cannot be written; all methods may raise it.
    """

    def __init__(self, workdir: Path, start: int, steps: int, quiet: bool, write: bool):
        self._workdir, self._file, self._board = workdir, None, None
        if write:
            with self._writing():
                path = workdir / "metrics.jsonl"
                if path.is_file():
                    _drop_after(path, start)
                self._file = path.open("a", encoding="utf-8")
                self._board = _Board(workdir / "tensorboard", start)
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[shown]}"),
            console=Console(stderr=True),
            disable=quiet or not write,
        )
        self._task = self._bar.add_task("", total=steps, completed=start, shown="compiling")
        self._clock, self._seconds, self._waited, self._images = None, 0.0, 0.0, 0

    def __enter__(self) -> "MetricsLog":
        self._bar.start()
        return self

    def __exit__(self, kind, *_) -> None:
        self._bar.stop()
        if self._file is None:
            return
        try:
            self._file.close()
            self._board.close()
        except OSError as error:
            if kind is None:  # else the first error is the one to show
                raise self._error(error) from error

    def finished(self, step: int, metrics: dict[str, float], images: int, waited: float) -> None:
        """Counts a step that has just ended towards speed, and moves the bar.

        Args:
          step: its number.
          metrics: its scalars.
          images: its batch size.
          waited: seconds spent waiting for batches since the previous step.
        """
        now = time.perf_counter()
        if self._clock is not None:  # the first step's time is mostly compilation
            self._seconds += now - self._clock
            self._waited += waited
            self._images += images
        self._clock = now
        self._bar.update(self._task, completed=step, shown=f"loss {metrics['loss']:.4f}")

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Time inside the block does not count towards speed."""
        start = time.perf_counter()
        yield
        if self._clock is not None:
            self._clock += time.perf_counter() - start

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Records the scalars of a step, with speed since the last record and peak memory."""
        speed = {"peak_memory_gib": _peak_memory() / 2**30}
        if self._seconds:
            speed["images_per_second"] = self._images / self._seconds
            speed["data_wait"] = self._waited / self._seconds  # share of the time
        self._seconds, self._waited, self._images = 0.0, 0.0, 0
        self._write(step, {**metrics, **speed})

    def write_validation(
        self, step: int, metrics: dict[str, float], images: list[np.ndarray]
    ) -> None:
        """Records averages over the validation photographs, and some images [H, W, 3] uint8."""
        self._write(step, {f"validation/{name}": value for name, value in metrics.items()})
        if self._board is not None:
            with self._writing():
                for number, image in enumerate(images):
                    self._board.write_image(f"validation/{number}", image, step)

    def _write(self, step: int, values: dict[str, float]) -> None:
        if self._file is None:
            return
        finite = {name: v if math.isfinite(v) else None for name, v in values.items()}  # JSON
        with self._writing():
            self._file.write(json.dumps({"step": step, **finite}) + "\n")
            self._file.flush()
            self._board.write_scalars(values, step)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._error(error) from error

    def _error(self, error: OSError) -> UserError:
        return UserError(
            f"cannot write the logs in {self._workdir} ({error.strerror}); checkpoints are intact."
        )


class _Board:
    """A TensorBoard event file, written without a thread.

    tensorboardX's `SummaryWriter` hands events to a thread. When the disk is full that thread dies
    and closing the writer blocks for ever; here the error is raised where it happens.
    """

    def __init__(self, folder: Path, start: int):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"))
        # Makes TensorBoard drop what a killed run wrote after this step.
        restart = SessionLog(status=SessionLog.START)
        self._writer.write_event(Event(wall_time=time.time(), step=start + 1, session_log=restart))

    def write_scalars(self, values: dict[str, float], step: int) -> None:
        from tensorboardX.summary import scalar

        for name, value in values.items():
            self._write(scalar(name, value), step)
        self._writer.flush()

    def write_image(self, name: str, image: np.ndarray, step: int) -> None:
        from tensorboardX import summary

        self._write(summary.image(name, image, dataformats="HWC"), step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()

    def _write(self, summary, step: int) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._writer.write_event(Event(wall_time=time.time(), step=step, summary=summary))


def _peak_memory() -> int:
    """Peak memory in bytes: of the first device, or of the process on the CPU."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _drop_after(path: Path, step: int) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if _step(line) is not None and _step(line) <= step]
    with atomic_file(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def _step(line: str) -> int | None:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):  # the line that was being written when the run died
        return None
