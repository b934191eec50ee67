"""Where the numbers of a run go: `metrics.jsonl`, TensorBoard and the progress bar."""

import json
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tvt_jax.atomic_write import atomic_file


class MetricsLog:
    """Writes scalars by step.

    Args:
      workdir: folder of the run.
      start: number of steps done already; what was logged after them (by a run that died before
        its next checkpoint) is dropped.
      steps: length of the run.
      quiet: no progress bar.
    """

    def __init__(self, workdir: Path, start: int, steps: int, quiet: bool):
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
            disable=quiet,
        )
        self._task = self._bar.add_task("", total=steps, completed=start, shown="compiling")

    def __enter__(self) -> "MetricsLog":
        self._bar.start()
        return self

    def __exit__(self, *_) -> None:
        self._bar.stop()
        self._file.close()
        self._board.close()

    def advance(self, step: int) -> None:
        """Moves the bar to `step`."""
        self._bar.update(self._task, completed=step)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Records the scalars of a step."""
        self._file.write(json.dumps({"step": step, **metrics}) + "\n")
        self._file.flush()
        for name, value in metrics.items():
            self._board.add_scalar(name, value, step)
        self._bar.update(self._task, shown=f"loss {metrics['loss']:.4f}")


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
