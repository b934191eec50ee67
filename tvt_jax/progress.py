"""A progress bar on stderr."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def progress(
    items: Iterable[Item], what: str, quiet: bool = False, total: int | None = None
) -> Iterator[Item]:
    """Yields `items` while a bar on stderr shows how many are done and the time left.

    Args:
      items: with a length, unless `total` is given.
      what: one word or two, shown before the bar.
      quiet: no bar.
      total: how many there are.
    """
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    yield from track(items, what, total, console=console, disable=quiet, transient=True)
