"""Speed of the data pipeline by the number of its worker processes, in samples per second."""

import contextlib
import dataclasses
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from tvt_jax.bundled import TRAIN_PHOTOGRAPHS
from tvt_jax.config import DEGRADATIONS, DataConfig
from tvt_jax.data.pipeline import batches
from tvt_jax.data.preparation.prepare import Settings, prepare_shards
from tvt_jax.data.preparation.runners import run_in_processes
from tvt_jax.progress import progress

_SIZE = (1536, 1024)  # px; about LSDIR's images
_TICK = os.sysconf("SC_CLK_TCK")


@dataclasses.dataclass(frozen=True)
class PipelineSpeed:
    """One measurement.

    Attributes:
      workers: worker processes; 0 is threads of the main process.
      samples_per_second: by the clock.
      cpu_seconds: of all processes together, a sample.
    """

    workers: int
    samples_per_second: float
    cpu_seconds: float


def pipeline_speed(
    config: DataConfig, workers: Sequence[int], count: int = 20, rounds: int = 3
) -> list[PipelineSpeed]:
    """Measures the pipeline alone, without a consumer that would slow it down.

    Args:
      config: what the pipeline does; its `workers` and `threads` are replaced.
      workers: numbers of worker processes, each with one thread; for 0, one thread.
      count: batches in a measurement, after those that were made ahead.
      rounds: repetitions; the fastest of each setting is returned, since other load can only slow
        it down.

    Raises:
      UserError: as `tvt_jax.data.pipeline.batches`.
    """
    best: dict[int, PipelineSpeed] = {}
    for number in progress([w for _ in range(rounds) for w in workers], "pipeline"):
        speed = _measure(dataclasses.replace(config, workers=number, threads=max(number, 1)), count)
        if number not in best or speed.samples_per_second > best[number].samples_per_second:
            best[number] = speed
    return [best[number] for number in workers]


def _measure(config: DataConfig, count: int) -> PipelineSpeed:
    with batches(config, 0, 0, process=(0, 1)) as stream:
        for _ in range(2 * config.prefetch + 2):
            next(stream)
        start, cpu = time.perf_counter(), _cpu_seconds()
        for _ in range(count):
            next(stream)
        seconds, cpu = time.perf_counter() - start, _cpu_seconds() - cpu
    samples = count * config.batch_size
    return PipelineSpeed(config.workers, samples / seconds, cpu / samples)


def _cpu_seconds() -> float:
    """CPU time of this process and of its workers so far."""
    total = time.process_time()
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += (int(fields[11]) + int(fields[12])) / _TICK
    return total


@contextlib.contextmanager
def sample_shards() -> Iterator[str]:
    """Gives a temporary folder of shards: the bundled photographs at the size of LSDIR's."""
    with tempfile.TemporaryDirectory() as folder:
        images, shards = Path(folder) / "images", Path(folder) / "shards"
        images.mkdir()
        for path in sorted(TRAIN_PHOTOGRAPHS.glob("*.jpg")):
            with Image.open(path) as image:
                large = image.resize(_SIZE, Image.Resampling.BICUBIC)
                large.save(images / path.name, quality=92)
        prepare_shards(str(shards), Settings((str(images),)), run_in_processes(1, True))
        yield str(shards)


def pipeline_speed_report(
    crop: int = 512, batch_size: int = 8, count: int = 10, rounds: int = 3
) -> str:
    """Times the pipeline on shards of the bundled photographs, enlarged to the size of LSDIR's.

    Decoding, crop and flip alone, and with the degradation `mild`, each with one thread and with 1
    and 2 worker processes. Linux only: CPU times come from /proc.

    Returns: a table in Markdown.
    """
    with sample_shards() as shards:
        config = DataConfig(train=shards, crop=crop, batch_size=batch_size)
        lines = [
            f"Crops of {crop} px from JPEG of {_SIZE[0]}x{_SIZE[1]} px in shards; best of {rounds}",
            "",
            "| what | worker processes | samples per second | CPU ms per sample |",
            "|---|---|---|---|",
        ]
        for what, degradation in (("HR", None), ("HR and LR", DEGRADATIONS["mild"])):
            settings = dataclasses.replace(config, degradation=degradation)
            for speed in pipeline_speed(settings, (0, 1, 2), count, rounds):
                lines.append(
                    f"| {what} | {speed.workers or '0 (a thread)'} "
                    f"| {speed.samples_per_second:.1f} | {1000 * speed.cpu_seconds:.1f} |"
                )
    return "\n".join(lines)
