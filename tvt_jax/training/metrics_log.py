"""Where the numbers of a run go: `metrics.jsonl`, TensorBoard and the progress bar."""

import dataclasses
import json
import resource
import sys
from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tvt_jax.atomic_write import atomic_file


@dataclasses.dataclass(frozen=True)
class StepRecord:
    """A step that has been dispatched.

    Attributes:
      step: its number, from 1.
      metrics: scalars that may still be under way on the device.
      seconds: from the request for its batch to the request for the next, in all.
      waited: of these, seconds that the loop waited for the batch.
    """

    step: int
    metrics: dict[str, jax.Array]
    seconds: float
    waited: float


class MetricsLog:
    """Writes scalars and pictures by step.

    Args:
      workdir: folder of the run.
      start: number of steps done already; what was logged after them (by a run that died before
        its next checkpoint) is dropped.
      steps: length of the run.
      quiet: no progress bar.
      write: write files; false in all processes of a run but one.
    """

    def __init__(self, workdir: Path, start: int, steps: int, quiet: bool, write: bool):
        self._file = self._board = None
        if write:
            from tensorboardX import SummaryWriter

            path = workdir / "metrics.jsonl"
            if path.is_file():
                _drop_after(path, start)
            self._file = path.open("a", encoding="utf-8")
            self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=start + 1)
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
        self._seconds = self._waited = self._images = 0.0

    def __enter__(self) -> "MetricsLog":
        self._bar.start()
        return self

    def __exit__(self, *_) -> None:
        self._bar.stop()
        if self._file is not None:
            self._file.close()
            self._board.close()

    def add(self, record: StepRecord, metrics: dict[str, float], images: int) -> None:
        """Counts a finished step of `images` images towards speed, and moves the bar."""
        self._seconds += record.seconds
        self._waited += record.waited
        self._images += images
        self._bar.update(self._task, completed=record.step, shown=f"loss {metrics['loss']:.4f}")

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Records the scalars of a step, with speed since the last record and peak memory."""
        speed = {
            "images_per_second": self._images / max(self._seconds, 1e-9),
            "data_wait": self._waited / max(self._seconds, 1e-9),  # share of the time
            "peak_memory_gib": _peak_memory() / 2**30,
        }
        self._seconds = self._waited = self._images = 0.0
        self._write(step, {**metrics, **speed})

    def write_validation(
        self, step: int, metrics: dict[str, float], pictures: list[np.ndarray]
    ) -> None:
        """Records averages over the validation photographs, and some pictures [H, W, 3] uint8."""
        self._write(step, {f"validation/{name}": value for name, value in metrics.items()})
        if self._board is not None:
            for number, picture in enumerate(pictures):
                self._board.add_image(f"validation/{number}", picture, step, dataformats="HWC")

    def _write(self, step: int, values: dict[str, float]) -> None:
        if self._file is None:
            return
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)


def _peak_memory() -> int:
    """Bytes at the highest so far: of the first device, or of the process on the CPU."""
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
