"""Speed of the degradation on one thread, in images per second."""

import time
from collections.abc import Iterator

import cv2
import numpy as np
from PIL import Image

from tvt_jax.bundled import TRAIN_PHOTOGRAPHS
from tvt_jax.config import DEGRADATIONS, DegradationConfig
from tvt_jax.data.degradation import degrade, draw_recipe
from tvt_jax.data.worker_process import keep_freed_memory
from tvt_jax.errors import UserError
from tvt_jax.progress import progress


def degradation_speed_report(crop: int, rounds: int, images: int, seed: int = 0) -> str:
    """Times both presets on crops of the bundled photographs, as a table in Markdown.

    Args:
      crop: side of the crops, px.
      rounds: number of measurements, of which the median is reported.
      images: in a round.
      seed: of all random choices.

    Raises:
      UserError: a number is not possible.
    """
    if min(rounds, images) < 1:
        raise UserError("`rounds` and `images` must be at least 1.")
    keep_freed_memory()
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)
    try:
        lines = [
            f"{rounds} rounds of {images} images of {crop} px, one thread; median (least - most).",
            "",
            "| preset | images per CPU second | images per second |",
            "|---|---|---|",
        ]
        crops = _crops(crop)
        for preset, config in DEGRADATIONS.items():
            speeds = _measure(config, crops, rounds, images, np.random.default_rng(seed), preset)
            cells = (
                f"{np.median(column):.1f} ({column.min():.1f} - {column.max():.1f})"
                for column in speeds.T
            )
            lines.append(f"| {preset} | {' | '.join(cells)} |")
        return "\n".join(lines)
    finally:
        cv2.setNumThreads(threads)


def _measure(
    config: DegradationConfig,
    crops: Iterator[np.ndarray],
    rounds: int,
    images: int,
    rng: np.random.Generator,
    preset: str,
) -> np.ndarray:
    """(images per CPU second, images per second) of every round."""

    def run(count: int) -> None:
        for image, _ in zip(crops, range(count), strict=False):
            degrade(image, draw_recipe(config, rng, *image.shape[:2]))

    run(8)  # warm-up
    speeds = []
    for _ in progress(range(rounds), preset):
        wall, cpu = time.perf_counter(), time.process_time()
        run(images)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        speeds.append((images / cpu, images / wall))
    return np.array(speeds)


def _crops(side: int) -> Iterator[np.ndarray]:
    """The bundled photographs without end, mirrored to the size where they are smaller."""
    photographs = []
    for path in sorted(TRAIN_PHOTOGRAPHS.glob("*.jpg")):
        image = np.asarray(Image.open(path).convert("RGB"))
        missing = [(0, max(0, side - length)) for length in image.shape[:2]]
        image = np.pad(image, (*missing, (0, 0)), mode="symmetric")[:side, :side]
        photographs.append(image.astype(np.float32) / 255)
    while True:
        yield from photographs
