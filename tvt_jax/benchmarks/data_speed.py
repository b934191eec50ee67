"""How many images a second the degradation makes on one thread, alone and against BasicSR."""

import random
import time
from collections.abc import Callable, Iterator

import cv2
import numpy as np
from PIL import Image

from tvt_jax.benchmarks.reference_degradation import ReferenceDegradation
from tvt_jax.bundled import TRAIN_PHOTOGRAPHS
from tvt_jax.config import DEGRADATIONS, DegradationConfig
from tvt_jax.data.degradation import degrade, draw_recipe
from tvt_jax.data.worker_process import keep_freed_memory
from tvt_jax.errors import UserError
from tvt_jax.progress import progress


def degradation_speed_report(
    against_reference: bool, crop: int, rounds: int, images: int, seed: int = 0
) -> str:
    """Times both presets on crops of the bundled photographs, as a table in Markdown.

    All run in this process and on one thread, in turns round by round, so that what else the
    machine does meets them alike. The reference is timed with and without the last step, the
    enlargement; `degrade` always takes that step.

    Args:
      against_reference: whether to time BasicSR's operators too.
      crop: side of the crops, px.
      rounds: of which the median is told.
      images: in a round.
      seed: of all random choices.

    Raises:
      UserError: a number is not possible; or torch or basicsr is missing.
    """
    if min(rounds, images) < 1:
        raise UserError("--rounds and --images must be at least 1.")
    keep_freed_memory()
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)
    try:
        lines = [
            f"{rounds} rounds of {images} images of {crop} px, one thread; median (least - most).",
            "",
            "Last column: how many times faster tvt_jax is by CPU time and by the clock.",
            "",
            "| preset | what | images per CPU second | images per second | CPU / clock |",
            "|---|---|---|---|---|",
        ]
        crops = _crops(crop)
        for preset, config in DEGRADATIONS.items():
            runners = _runners(config, against_reference, np.random.default_rng(seed))
            random.seed(seed)
            np.random.seed(seed)
            speeds = _measure(runners, crops, rounds, images, preset)
            for name, speed in speeds.items():
                cells = [_spread(speed[:, column]) for column in (0, 1)]
                ratios = np.median(speeds["tvt_jax"] / speed, axis=0)
                cells.append(f"{ratios[0]:.1f} / {ratios[1]:.1f}")
                lines.append(f"| {preset} | {name} | {' | '.join(cells)} |")
        return "\n".join(lines)
    finally:
        cv2.setNumThreads(threads)


def _spread(values: np.ndarray) -> str:
    return f"{np.median(values):.1f} ({values.min():.1f} - {values.max():.1f})"


def _runners(
    config: DegradationConfig, against_reference: bool, rng: np.random.Generator
) -> dict[str, Callable[[np.ndarray], object]]:
    runners = {"tvt_jax": lambda image: degrade(image, draw_recipe(config, rng, *image.shape[:2]))}
    if against_reference:
        import torch

        torch.set_num_threads(1)
        torch.manual_seed(0)
        reference = ReferenceDegradation(config)
        runners["BasicSR"] = reference
        runners["BasicSR, not enlarged"] = lambda image: reference(image, enlarge=False)
    return runners


def _measure(
    runners: dict[str, Callable[[np.ndarray], object]],
    crops: Iterator[np.ndarray],
    rounds: int,
    images: int,
    preset: str,
) -> dict[str, np.ndarray]:
    """(images per CPU second, images per second) of every round, by name."""
    speeds: dict[str, list[tuple[float, float]]] = {name: [] for name in runners}
    for image, _ in zip(crops, range(8), strict=False):  # tables are built, libraries wake up
        for run in runners.values():
            run(image)
    for _ in progress(range(rounds), preset):
        batch = [image for image, _ in zip(crops, range(images), strict=False)]
        for name, run in runners.items():
            wall, cpu = time.perf_counter(), time.process_time()
            for image in batch:
                run(image)
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            speeds[name].append((images / cpu, images / wall))
    return {name: np.array(speed) for name, speed in speeds.items()}


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
