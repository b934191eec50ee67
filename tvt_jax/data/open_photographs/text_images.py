"""Images of text for training: fine structure, which photographs have little of."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIZE = 512  # px
_SUFFIXES = (".ttf", ".otf", ".ttc")
_FONT_SIZES = (14, 90)  # px
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_SIGNS = ".,:;-+/()&%#@!?"
_CJK = (0x4E00, 0x9FA5)  # Unicode's unified ideographs
_NO_CHARACTER = "\uffff"


def fonts_of(folders: Sequence[Path]) -> list[Path]:
    """Font files below folders that have Latin letters, sorted; symbol fonts are left out."""
    paths = {path for folder in folders for path in folder.rglob("*")}
    return [path for path in sorted(paths) if path.suffix.lower() in _SUFFIXES and _latin(path)]


def _latin(path: Path) -> bool:
    try:
        font = ImageFont.truetype(str(path), 32)
        shapes = {bytes(font.getmask(letter)) for letter in (*"Rag7", _NO_CHARACTER)}
        return len(shapes) == 5
    except (OSError, ValueError):  # no font that FreeType can draw
        return False


def text_image(
    rng: np.random.Generator, fonts: Sequence[Path], photographs: Sequence[Path]
) -> tuple[np.ndarray, list[Path]]:
    """Draws one image: lines of random words on a plain, shaded or photographed background.

    Args:
      rng: the only source of randomness.
      fonts: of `fonts_of`, at least one.
      photographs: what backgrounds are cut from; may be empty.

    Returns: ([512, 512, 3] uint8, the fonts and the photograph that are in it).
    """
    background, used = _background(rng, photographs)
    image = Image.fromarray(background)
    draw = ImageDraw.Draw(image)
    top = int(rng.integers(0, 20))
    while True:
        path = fonts[rng.integers(len(fonts))]
        # Small letters are frequent in photographs, and large ones take up more of the image.
        size = int(np.exp(rng.uniform(*np.log(_FONT_SIZES))))
        if top + size > SIZE:
            break
        font = ImageFont.truetype(str(path), size)
        text, left = _text(rng, font, path), int(rng.integers(-20, 60))
        local = background[top : top + size].reshape(-1, 3).mean(0)
        ink = tuple(int(v) for v in _ink(rng, local))
        stroke = int(rng.random() < 0.1) * max(1, size // 20)
        edge = tuple(255 - v for v in ink)
        draw.text((left, top), text, font=font, fill=ink, stroke_width=stroke, stroke_fill=edge)
        used.append(path)
        top += int(size * rng.uniform(1.1, 1.8))
    pixels = np.array(image)
    if rng.random() < 0.3:
        pixels = _turn(pixels, rng.uniform(-30, 30))
    return pixels, list(dict.fromkeys(used))


def _background(
    rng: np.random.Generator, photographs: Sequence[Path]
) -> tuple[np.ndarray, list[Path]]:
    kind = rng.random()
    if photographs and kind < 0.4:
        path = photographs[rng.integers(len(photographs))]
        pixels = np.array(Image.open(path).convert("RGB"))
        height, width = pixels.shape[:2]
        if min(height, width) < SIZE:
            scale = SIZE / min(height, width)
            size = (max(SIZE, round(width * scale)), max(SIZE, round(height * scale)))
            pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_CUBIC)
            height, width = pixels.shape[:2]
        top, left = rng.integers(height - SIZE + 1), rng.integers(width - SIZE + 1)
        return np.ascontiguousarray(pixels[top : top + SIZE, left : left + SIZE]), [path]
    ends = rng.integers(0, 256, (2, 3)) if kind < 0.8 else rng.integers(235, 256, (2, 3))
    if kind < 0.6:
        ends[1] = ends[0]
    position = np.linspace(0, 1, SIZE)[:, None, None]
    shaded = ends[0] + position * (ends[1] - ends[0])
    return np.broadcast_to(np.round(shaded), (SIZE, SIZE, 3)).astype(np.uint8), []


def _text(rng: np.random.Generator, font: ImageFont.FreeTypeFont, path: Path) -> str:
    """Words that fill the width."""
    ideographs = "CJK" in path.name and rng.random() < 0.7
    words: list[str] = []
    while not words or font.getlength(" ".join(words)) < SIZE:
        length = int(rng.integers(1, 10))
        kind = rng.random()
        if ideographs:
            words.append("".join(chr(rng.integers(*_CJK)) for _ in range(length)))
        elif kind < 0.2:
            words.append(str(rng.integers(10**length)))
        else:
            word = "".join(_LETTERS[i] for i in rng.integers(len(_LETTERS), size=length))
            word = word.upper() if kind < 0.4 else word.title() if kind < 0.6 else word
            words.append(word + (_SIGNS[rng.integers(len(_SIGNS))] if rng.random() < 0.2 else ""))
    return " ".join(words)


def _ink(rng: np.random.Generator, paper: np.ndarray) -> np.ndarray:
    """A colour that stands out: the farther from the paper of two."""
    colours = rng.integers(0, 256, (2, 3))
    if rng.random() < 0.5:
        colours = np.array([[0, 0, 0], [255, 255, 255]]) + rng.integers(0, 40, 3) * [[1], [-1]]
    return max(colours, key=lambda colour: float(np.abs(colour - paper).sum()))


def _turn(pixels: np.ndarray, degrees: float) -> np.ndarray:
    """Turns about the middle and enlarges until no corner is empty."""
    angle = np.deg2rad(abs(degrees))
    scale = float(np.cos(angle) + np.sin(angle))
    matrix = cv2.getRotationMatrix2D((SIZE / 2, SIZE / 2), degrees, scale)
    return cv2.warpAffine(
        pixels, matrix, (SIZE, SIZE), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101
    )
