"""Whether text can still be read after restoration: rendered lines, and what OCR makes of them.

Pages of text in DejaVu are degraded and restored like the images of the benchmark. Each line is
then cut out where it was drawn, so the recogniser does not search.
"""

import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tvt_jax.downloads import wheel_files
from tvt_jax.evaluation.public_benchmark import MATPLOTLIB
from tvt_jax.evaluation.recogniser import Recogniser
from tvt_jax.evaluation.scene_text import edit_distance

PAGES = 12
_SIZE = 512  # px
_MARGIN = 16  # px around the text
_LINES = 9
_FONT_SIZES = (22, 40)  # px; in the low resolution, capitals are 4 to 7 px high
_FONTS = MATPLOTLIB._replace(
    files={
        "matplotlib/mpl-data/fonts/ttf/DejaVuSans.ttf": (
            "3fdf69cabf06049ea70a00b5919340e2ce1e6d02b0cc3c4b44fb6801bd1e0d22"
        ),
        "matplotlib/mpl-data/fonts/ttf/DejaVuSans-Bold.ttf": (
            "b184b89e3c1075f22f6b71575b6fc20d4972b3cfd3b23322ca6fd596dcaef167"
        ),
        "matplotlib/mpl-data/fonts/ttf/DejaVuSansMono.ttf": (
            "602ec86b8948cfcd956482fe64f94c36c867770149ef2f791d4613f443bcecb3"
        ),
        "matplotlib/mpl-data/fonts/ttf/DejaVuSerif.ttf": (
            "107244956e9962b9e96faccdc551825e0ae0898ae13737133e1b921a2fd35ffa"
        ),
    }
)
_WORDS = (
    "Station Market Harbour Library Museum Garden Bridge Street Platform Ticket Coffee Bakery "
    "Pharmacy Hotel Parking Entrance Exit Closed Open Monday Friday August quick brown lazy "
    "jumps over between through without morning evening weather window number paper kitchen "
    "yellow water sugar flour exhibition journey quality voyage maximum puzzle jacket"
).split()


class Line(NamedTuple):
    """One line of a page: its text, and the box (left, top, right, bottom) that it fills, px."""

    text: str
    box: tuple[int, int, int, int]


class Page(NamedTuple):
    """An image of text, [512, 512, 3] uint8, and the lines on it."""

    image: np.ndarray
    lines: tuple[Line, ...]


def text_fonts() -> list[str]:
    """Font files of DejaVu, of the package matplotlib or its wheel.

    Raises:
      UserError: they are not there and cannot be downloaded.
    """
    return [str(path) for path in wheel_files(_FONTS).values()]


def render_pages(fonts: Sequence[str], count: int = PAGES) -> dict[str, Page]:
    """Draws pages of words and numbers; the same fonts give the same pages.

    Args:
      fonts: font files; the pages use them in turns.
      count: how many.

    Returns: pages by name, `text_00` and so on.
    """
    names = [f"text_{number:02d}" for number in range(count)]
    return {name: _page(name, fonts[i % len(fonts)]) for i, name in enumerate(names)}


def _page(name: str, font_file: str) -> Page:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    # Dark on light or light on dark, a slight tint in either.
    paper, ink = rng.integers(190, 256, 3), rng.integers(0, 90, 3)
    if rng.random() < 0.4:
        paper, ink = ink, paper
    image = Image.new("RGB", (_SIZE, _SIZE), tuple(int(v) for v in paper))
    draw, lines = ImageDraw.Draw(image), []
    for number in range(_LINES):
        font = ImageFont.truetype(font_file, int(rng.integers(*_FONT_SIZES, endpoint=True)))
        text = _words(rng, font, _SIZE - 2 * _MARGIN)
        at = (_MARGIN, _MARGIN + number * (_SIZE - 2 * _MARGIN) // _LINES)
        draw.text(at, text, font=font, fill=tuple(int(v) for v in ink))
        lines.append(Line(text, tuple(int(v) for v in draw.textbbox(at, text, font=font))))
    return Page(np.array(image), tuple(lines))


def _words(rng: np.random.Generator, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Words and numbers, as many as fit into the width."""
    text = ""
    while True:
        number = rng.random() < 0.25
        word = str(rng.integers(10, 10000)) if number else _WORDS[rng.integers(len(_WORDS))]
        longer = f"{text} {word}".strip()
        if font.getlength(longer) > width:
            return text or word
        text = longer


def text_accuracy(
    pages: Mapping[str, Page], images: Mapping[str, np.ndarray], recogniser: Recogniser
) -> float:
    """The share of characters that are read rightly, over all lines.

    Args:
      pages: what was drawn.
      images: the same pages restored, [512, 512, 3] uint8 by name.
      recogniser: what reads.

    Returns: 1 minus the edit distance by the number of characters, at least 0 for each line; spaces
      do not count.
    """
    right = total = 0
    for name, page in pages.items():
        for line in page.lines:
            left, top, end, bottom = line.box
            part = images[name][max(top - 6, 0) : bottom + 6, max(left - 8, 0) : end + 8]
            wanted, got = (
                text.replace(" ", "") for text in (line.text, recogniser.read(part, "ENG"))
            )
            right += max(0, len(wanted) - edit_distance(wanted, got))
            total += len(wanted)
    return right / total
