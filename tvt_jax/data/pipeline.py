"""Batches for training, made by Grain on the host while the accelerator works.

Everything random depends only on the seed and the number of the sample: crop, flip, degradation,
and which image replaces an unusable one. So the stream can start at any batch, and threads, worker
processes and the number of hosts do not change its content.
"""

import hashlib
import logging
import shutil
import signal
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import grain
import numpy as np

from tvt_jax.config import DataConfig
from tvt_jax.data.degradation import draw_recipe
from tvt_jax.data.samples import Collate, ReadSample
from tvt_jax.data.sources import Source, open_sources
from tvt_jax.data.worker_process import keep_freed_memory, limit_threads_of_children, start_worker
from tvt_jax.errors import UserError

_LOG = logging.getLogger(__name__)
# The share of failures is checked from this many images on, so that one failure among a few images
# does not stop a run.
_JUDGED_AFTER = 200
# How many images are named per kind of conversion; conversions are harmless and may be many.
_NAMED_CONVERSIONS = 10


def batches(
    config: DataConfig,
    seed: int,
    start: int,
    report: Callable[[str], None] = _LOG.warning,
    process: tuple[int, int] | None = None,
    tokenizer: str = "",
) -> "Batches":
    """Opens the stream of batches of a run.

    Args:
      config: validated settings.
      seed: of order, crops, flips and degradations.
      start: number of the first batch, counted from the beginning of training. Starting late
        costs nothing.
      report: called with a line for every image that is skipped or converted.
      process: (index, count) of the processes that train together; None asks jax. Process p of P
        gets the p-th block of each batch, so that the whole batch is the same for any P.
      tokenizer: folder of the tokenizer of prompts; empty: the batches have no tokens.

    Returns: an iterator without end over
      "hr": [B, crop, crop, 3] uint8, B being this process's share of the batch size;
      "lr": likewise, the low resolution at the size of HR: real where an image has one, else by
        `config.degradation`; absent if there is neither;
      "tokens": [B, 77] int32 of "TAG, TAG, " and `config.prompt` (with `tokenizer`).
    Raises:
      UserError: folders are missing, empty or half prepared, do not fit the settings, or the crop
        is too small to be degraded. While iterating: too many images cannot be used.
    """
    if process is None:
        import jax

        process = (jax.process_index(), jax.process_count())
    index, count = process
    if config.batch_size % count:
        raise UserError(
            f"`config.data.batch_size={config.batch_size}` is not a multiple of the "
            f"{count} processes."
        )
    local = config.batch_size // count
    collate = Collate(tokenizer)
    sources = open_sources(config)
    share = _Share(_samples(sources, config, seed), config.batch_size, index * local, local)
    dataset = _prefetched(share[start * local :], config, local)
    dataset = grain.experimental.ThreadPrefetchIterDataset(
        dataset.batch(local, batch_fn=collate), prefetch_buffer_size=config.prefetch
    )
    fingerprint = hashlib.sha256("".join(s.fingerprint for s in sources).encode()).hexdigest()
    return Batches(iter(dataset), start, fingerprint, config.max_failed, report)


def samples(config: DataConfig, seed: int) -> grain.MapDataset:
    """The samples of a run by their numbers, without end: `samples(config, seed)[i]` replays one.

    Within an epoch of a source each image comes once, in an order that is new in every epoch.
    With weights, the sources take turns in fixed proportions.

    Returns: dataset of {"hr": [crop, crop, 3] uint8, "lr": likewise if there is one, "prompt":
      text, "events": list of `Event`}.
    Raises:
      UserError: as `batches`.
    """
    return _samples(open_sources(config), config, seed)


def _samples(sources: list[Source], config: DataConfig, seed: int) -> grain.MapDataset:
    if config.degradation is not None:  # fail here, not in a worker
        draw_recipe(config.degradation, np.random.default_rng(0), config.crop, config.crop)
    with_lr = config.degradation is not None or any(source.paired for source in sources)
    for source in sources:
        if with_lr and config.degradation is None and not source.paired:
            raise UserError(
                f"`config.data.train` mixes real pairs with images that have no LR image "
                f"({source.name(0)}); set `config.data.degradation` or leave one of them out."
            )
    seeds = [int(s) for s in np.random.SeedSequence(seed).generate_state(len(sources) + 1)]
    keys, first = [], 0
    for source in sources:
        keys.append(grain.MapDataset.range(first, first + len(source)))
        first += len(source)
    if config.weights:
        shuffled = [k.shuffle(seed=s).repeat() for k, s in zip(keys, seeds[1:], strict=True)]
        dataset = grain.MapDataset.mix(shuffled, config.weights)
    else:
        dataset = grain.MapDataset.range(first).shuffle(seed=seeds[1]).repeat()
    reader = ReadSample(sources, config.crop, config.degradation, with_lr, config.prompt)
    return dataset.random_map(reader, seed=seeds[0])


class _Share(grain.MapDataset):
    """One process's share: a block of each batch."""

    def __init__(self, parent: grain.MapDataset, batch: int, first: int, size: int):
        super().__init__(parent)
        self._batch, self._first, self._size = batch, first, size

    def __len__(self) -> int:
        return len(self._parent) // self._batch * self._size

    def __getitem__(self, index: int | slice):
        if isinstance(index, slice):
            return self.slice(index)
        batch, place = divmod(index, self._size)
        return self._parent[batch * self._batch + self._first + place]


def _prefetched(dataset: grain.MapDataset, config: DataConfig, local: int) -> grain.IterDataset:
    """Makes samples ahead, in threads of this process or in worker processes."""
    ahead = config.prefetch * local
    if not config.workers:
        cv2.setNumThreads(0)  # these threads already use all cores
        options = grain.ReadOptions(
            num_threads=config.threads, prefetch_buffer_size=max(ahead, config.threads)
        )
        return dataset.to_iter_dataset(options)
    from absl import flags

    if not flags.FLAGS.is_parsed():  # Grain reads absl flags, which only absl programs parse
        flags.FLAGS.mark_as_parsed()
    ahead = -(-ahead // config.workers)
    _check_shared_memory(config, ahead)
    limit_threads_of_children()
    threads = -(-config.threads // config.workers)
    # A single extra thread in a worker would only add a hand-over.
    read = grain.ReadOptions(
        num_threads=threads if threads > 1 else 0,
        prefetch_buffer_size=2 * threads if threads > 1 else 0,
    )
    options = grain.MultiprocessingOptions(config.workers, per_worker_buffer_size=ahead)
    return dataset.to_iter_dataset(read).mp_prefetch(options, worker_init_fn=_start_worker)


def _start_worker(index: int, count: int) -> None:
    start_worker()
    keep_freed_memory()
    # Schedulers send SIGTERM to all processes of a job; the parent saves a checkpoint first, and
    # needs batches until then.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _check_shared_memory(config: DataConfig, per_worker: int) -> None:
    """Workers pass pixels through shared memory; containers often have only 64 MB of it."""
    shared = Path("/dev/shm")
    # Each worker's queue, as much again being collated, and HR and LR of each sample.
    needed = 2 * 2 * config.workers * per_worker * 3 * config.crop**2
    if shared.is_dir() and shutil.disk_usage(shared).free < needed:
        raise UserError(
            f"{config.workers} workers need {needed / 2**20:.0f} MiB in /dev/shm and it has "
            f"{shutil.disk_usage(shared).free / 2**20:.0f}; start the container with a larger "
            "--shm-size, or lower `config.data.prefetch` or `config.data.workers`."
        )


class Batches(Iterator[dict[str, np.ndarray]]):
    """The stream of batches. Close it, or use it as a context: it owns worker processes.

    Attributes:
      position: number of the next batch. It is the whole state: store it with a checkpoint, and
        `batches(config, seed, position)` goes on exactly there, with any number of processes,
        workers and threads.
      fingerprint: of the images by name (by content for shards). A position is only valid
        while this is unchanged.
      counts: samples handed out, images skipped, and images converted by kind.
    """

    def __init__(
        self,
        iterator: Iterator[dict],
        start: int,
        fingerprint: str,
        max_failed: float,
        report: Callable[[str], None],
    ):
        self.position = start
        self.fingerprint = fingerprint
        self.counts: Counter[str] = Counter()
        self._iterator = iterator
        self._max_failed = max_failed
        self._report = report
        self._named: defaultdict[str, set[str]] = defaultdict(set)

    def __next__(self) -> dict[str, np.ndarray]:
        batch = next(self._iterator)
        for events in batch.pop("events"):
            self.counts["samples"] += 1
            for event in events:
                self._account(*event)
        self._judge()
        self.position += 1
        return batch

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Ends the worker processes."""
        self._iterator.close()

    def _account(self, what: str, name: str, reason: str) -> None:
        kind = what if what == "skipped" else reason
        self.counts[kind] += 1
        named = self._named[kind]
        if name in named:
            return
        if what == "skipped" or len(named) < _NAMED_CONVERSIONS:
            named.add(name)
            self._report(f"{what} {name}: {reason}")
        elif len(named) == _NAMED_CONVERSIONS:
            named.add("")
            self._report(f"{reason}: further images are converted without being named")

    def _judge(self) -> None:
        skipped = self.counts["skipped"]
        read = self.counts["samples"] + skipped
        if read >= _JUDGED_AFTER and skipped > self._max_failed * read:
            raise UserError(
                f"{skipped} of {read} images cannot be used, more than "
                f"`config.data.max_failed={self._max_failed}`; the log names them. Sort them out "
                "with `python -m tvt_jax.prepare`, or allow more."
            )
