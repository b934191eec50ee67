"""Where an image is cut: tiles that see beyond their own part, and a sample of its crops."""

import dataclasses
import itertools
import math
from typing import NamedTuple

import numpy as np

SAMPLE_CROP = 96  # px; many small crops know the statistics better than a few large ones
_SAMPLE_MARGIN = 16  # px at a crop's inner borders that do not count


class Tiles(NamedTuple):
    """How an image is cut.

    Attributes:
      side: of a tile, px, a multiple of `unit` and more than twice the margin.
      margin: what a tile sees beyond its own part, px, a multiple of `unit`; nothing at the image's
        edge.
      unit: px that the networks reduce to one position.
      crops: of `SAMPLE_CROP`, that make the sample.
    """

    side: int
    margin: int
    unit: int
    crops: int


@dataclasses.dataclass(frozen=True)
class Span:
    """A tile along one side, px: it sees [start, stop) and its own part is [first, last)."""

    start: int
    stop: int
    first: int
    last: int


class Tile(NamedTuple):
    """A part of an image."""

    rows: Span
    columns: Span

    def own(self, size: tuple[int, int]) -> tuple[slice, slice]:
        """Its own part of an image of (height, width), px."""
        return tuple(slice(s.first, min(s.last, n)) for s, n in zip(self, size, strict=True))

    def crop(self, pixels: np.ndarray, part: tuple[slice, slice]) -> np.ndarray:
        """A part of the image, of the pixels that the tile sees."""
        inside = (
            slice(p.start - s.start, p.stop - s.start) for s, p in zip(self, part, strict=True)
        )
        return pixels[tuple(inside)]


def cut(size: tuple[int, int], tiles: Tiles) -> list[Tile]:
    """The tiles of an image of (height, width), row by row; see `cut_side`."""
    return [Tile(*spans) for spans in itertools.product(*(cut_side(n, tiles) for n in size))]


def cut_side(length: int, tiles: Tiles) -> list[Span]:
    """Cuts a side into tiles whose own parts follow each other without gaps.

    Starts and inner borders are multiples of `unit`: a network that halves its input several times
    sees the same phase in a tile as in the whole. So the last tile may be shorter, by less than
    `unit`.
    """
    spans: list[Span] = []
    first = 0
    while first < length:
        start = min(max(0, first - tiles.margin), _furthest_start(length, tiles))
        stop = min(start + tiles.side, length)
        last = length if stop == length else stop - tiles.margin
        spans.append(Span(start, stop, first, last))
        first = last
    return spans


def quarters(tile: Tile, size: tuple[int, int], tiles: Tiles) -> list[Tile]:
    """Tiles of the same side for the quarters of a tile's own part: their margins are larger."""

    def halves(span: Span, length: int) -> list[Span]:
        middle = (span.first + span.last) // (2 * tiles.unit) * tiles.unit
        borders = sorted({span.first, max(middle, span.first), span.last})
        spans = []
        for first, last in itertools.pairwise(borders):
            start = (first - (tiles.side - (last - first)) // 2) // tiles.unit * tiles.unit
            start = min(max(0, start), _furthest_start(length, tiles))
            spans.append(Span(start, min(start + tiles.side, length), first, last))
        return spans

    sides = (halves(span, length) for span, length in zip(tile, size, strict=True))
    return [Tile(*spans) for spans in itertools.product(*sides)]


def sample_crops(size: tuple[int, int], tiles: Tiles) -> list[Tile]:
    """`tiles.crops` crops of one size, evenly over an image of (height, width)."""
    height, width = size
    wanted = math.sqrt(tiles.crops * height / width)
    divisors = [n for n in range(1, tiles.crops + 1) if tiles.crops % n == 0]
    rows = min(divisors, key=lambda n: abs(math.log(n / wanted)))

    def places(length: int, number: int) -> list[Span]:
        crop, spans = min(SAMPLE_CROP, length), []
        for i in range(number):
            start = round((length - crop) * i / max(number - 1, 1)) // tiles.unit * tiles.unit
            stop = start + crop
            first = start + (_SAMPLE_MARGIN if start else 0)
            spans.append(Span(start, stop, first, stop - (_SAMPLE_MARGIN if stop < length else 0)))
        return spans

    pairs = itertools.product(places(height, rows), places(width, tiles.crops // rows))
    return [Tile(*spans) for spans in pairs]


def _furthest_start(length: int, tiles: Tiles) -> int:
    return max(0, math.ceil((length - tiles.side) / tiles.unit) * tiles.unit)
