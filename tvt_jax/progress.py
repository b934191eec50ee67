"""Progress of anything long: bars on a terminal, lines in a log."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
_SECONDS_BETWEEN_LINES = 30.0


class Progress:
    """Shows on stderr how much is done and the time left.

    >>> with Progress() as show:
    ...     show("tiles", 3, 20)

    Args:
      quiet: shows nothing.
    """

    def __init__(self, quiet: bool = False):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        self._quiet = quiet
        self._terminal = sys.stderr.isatty()
        self._bars = Bars(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            disable=quiet or not self._terminal,
            redirect_stdout=sys.stdout.isatty(),  # what goes to a file stays there
        )  # fmt: skip
        self._rows = {}
        self._started: dict[str, tuple[float, int]] = {}
        self._last_line = time.monotonic()

    def __enter__(self) -> "Progress":
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Shows a row that says what, one word or two; it goes when all is done."""
        if self._terminal:
            if what not in self._rows:
                self._rows[what] = self._bars.add_task(what, completed=done, total=total)
            self._bars.update(self._rows[what], completed=done, total=total)
            if done >= total:
                self._bars.remove_task(self._rows.pop(what))
        elif not self._quiet:
            self._print_line(what, done, total)

    def _print_line(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        start, first = self._started.setdefault(what, (now, done))
        if done < total and now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            left = ""
            if done > first:
                left = f", about {_duration((now - start) / (done - first) * (total - done))} left"
            print(f"{what}: {done} of {total}{left}", file=sys.stderr, flush=True)
        if done >= total:
            del self._started[what]


def progress(
    items: Iterable[Item], what: str, quiet: bool = False, total: int | None = None
) -> Iterator[Item]:
    """Yields `items` and shows how many are done.

    Args:
      items: with a length, unless `total` is given.
      what: one word or two.
      quiet: shows nothing.
      total: how many there are.
    """
    total = len(items) if total is None else total
    with Progress(quiet) as show:
        show(what, 0, total)
        for number, item in enumerate(items, 1):
            yield item
            show(what, number, total)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
