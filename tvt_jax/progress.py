"""A progress bar for anything long."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def progress(items: Iterable[Item], what: str, quiet: bool = False) -> Iterator[Item]:
    """Yields `items` while a bar on stderr shows how many are done and the time left.

    Args:
      items: with a length.
      what: one word or two, shown before the bar.
      quiet: no bar.
    """
    from rich.console import Console
    from rich.progress import track

    yield from track(items, what, console=Console(stderr=True), disable=quiet, transient=True)
