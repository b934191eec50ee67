"""A plot of curves as SVG, which browsers and GitHub show."""

import html
import math
from collections.abc import Mapping, Sequence

_WIDTH, _HEIGHT = 720, 400  # px
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 180, 24, 48  # margins; names of the curves at the right
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_TICKS = 5

Point = tuple[float, float]


def plot(curves: Mapping[str, Sequence[Point]], x_title: str, y_title: str) -> str:
    """Draws curves into one frame.

    Args:
      curves: points (x, y) by name, at least one in all.
      x_title, y_title: of the axes.

    Returns: an SVG document.
    """
    points = [point for curve in curves.values() for point in curve]
    xs, ys = _ticks([x for x, _ in points]), _ticks([y for _, y in points])

    def place(x: float, y: float) -> Point:
        return (
            _LEFT + (x - xs[0]) / (xs[-1] - xs[0]) * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - (y - ys[0]) / (ys[-1] - ys[0]) * (_HEIGHT - _TOP - _BOTTOM),
        )

    parts = []
    for x in xs:
        at = place(x, ys[0])
        parts.append(_text(at[0], at[1] + 18, f"{x:g}", "middle"))
    for y in ys:
        start, end = place(xs[0], y), place(xs[-1], y)
        parts.append(_line([start, end], "#ccc", 1))
        parts.append(_text(start[0] - 8, start[1] + 4, f"{y:g}", "end"))
    for number, (name, curve) in enumerate(curves.items()):
        color = _COLORS[number % len(_COLORS)]
        parts.append(_line([place(*point) for point in curve], color, 2))
        row = _TOP + 20 * number
        left = _WIDTH - _RIGHT + 16
        parts.append(_line([(left, row), (left + 20, row)], color, 2))
        parts.append(_text(left + 28, row + 4, name, "start"))
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 8, x_title, "middle"))
    parts.append(_text(_LEFT, _TOP - 8, y_title, "middle"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="12">\n'
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>"
    )


def _ticks(values: Sequence[float]) -> list[float]:
    """Round numbers with a round step, from below the least value to above the greatest."""
    low, high = min(values), max(values)
    rough = (high - low or abs(high) or 1.0) / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    # A bound that is a multiple but for rounding counts as one.
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(n * step, 12) for n in range(first, max(last, first + 1) + 1)]


def _line(points: Sequence[Point], color: str, width: int) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="{width}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'
