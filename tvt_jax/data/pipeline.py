"""Batches for training, made beside the accelerator by Grain.

Everything random follows from the seed and the number of the sample: crop, flip, degradation, and
which picture replaces one that cannot be used. So the stream can be entered at any batch, and
neither threads, worker processes nor the number of hosts change what is in it.
"""

import hashlib
import logging
import shutil
import signal
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import grain
import numpy as np
from PIL import Image

from tvt_jax.config import QUALITY_WORDS, DataConfig, DegradationConfig, ValidationConfig
from tvt_jax.data.allocator import keep_freed_memory
from tvt_jax.data.degradation import degrade, draw_recipe
from tvt_jax.data.pairs import pair_factor
from tvt_jax.data.pictures import BadPicture, decode_picture
from tvt_jax.data.sources import Sample, Source, open_source, open_sources
from tvt_jax.data.worker_process import limit_threads_of_children, start_worker
from tvt_jax.errors import UserError

PROMPT_TOKENS = 77  # CLIP's fixed length
_LOG = logging.getLogger(__name__)
# As many unusable pictures in a row mean that there is hardly a usable one.
_MAX_TRIES = 50
# The share of failures is judged from this many pictures on, so that one failure does not stop a
# run of a few.
_JUDGED_AFTER = 200
# Of each kind of conversion so many pictures are named; they are harmless and may be many.
_NAMED_CONVERSIONS = 10
_TO_FLOAT = np.arange(256, dtype=np.float32) / 127.5 - 1.0  # [0, 255] -> [-1, 1]

Event = tuple[str, str, str]  # "skipped" or "converted", name of the picture, reason


def batches(
    config: DataConfig,
    seed: int,
    start: int,
    report: Callable[[str], None] = _LOG.warning,
    process: tuple[int, int] | None = None,
) -> "Batches":
    """Opens the stream of batches of a run.

    Args:
      config: validated settings.
      seed: of order, crops, flips and degradations.
      start: number of the first batch, counted from the beginning of training. Entering late
        costs nothing.
      report: called with a line for every picture that is skipped or converted.
      process: (index, count) of the processes that train together; None asks jax. Process p of P
        gets the p-th block of each batch, so that the whole batch is the same for any P.

    Returns: an iterator without end over
      "hr": [B, crop, crop, 3] float32 in [-1, 1], B being this process's share of the batch size;
      "lr": likewise, the low resolution at the size of HR: real where a picture has one, else by
        `config.degradation`; absent if there is neither;
      "tokens": [B, 77] int32 of "TAG, TAG, clean, high-resolution, 8k" (with `config.tokenizer`).
    Raises:
      UserError: folders are missing, empty or half prepared, do not fit the settings, or the crop
        is too small to be degraded. While iterating: too many pictures cannot be used.
    """
    if process is None:
        import jax

        process = (jax.process_index(), jax.process_count())
    index, count = process
    if config.batch_size % count:
        raise UserError(
            f"--config.data.batch_size={config.batch_size} is not a multiple of the "
            f"{count} processes."
        )
    local = config.batch_size // count
    collate = Collate(config.tokenizer)
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

    Within an epoch of a source each picture comes once, in an order that is new in every epoch.
    With weights, the sources take turns in fixed proportions.

    Returns: dataset of {"hr": [crop, crop, 3] uint8, "lr": likewise if there is one, "prompt":
      text, "events": list of `Event`}.
    Raises:
      UserError: as `batches`.
    """
    return _samples(open_sources(config), config, seed)


def _samples(sources: list[Source], config: DataConfig, seed: int) -> grain.MapDataset:
    if config.degradation is not None:  # fails here and not in a worker
        draw_recipe(config.degradation, np.random.default_rng(0), config.crop, config.crop)
    with_lr = config.degradation is not None or any(source.paired for source in sources)
    for source in sources:
        if with_lr and config.degradation is None and not source.paired:
            raise UserError(
                f"--config.data.train mixes real pairs with pictures that have no LR picture "
                f"({source.name(0)}); set --config.data.degradation or leave one of them out."
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
    reader = _ReadSample(sources, config.crop, config.degradation, with_lr)
    return dataset.random_map(reader, seed=seeds[0])


def heldout_samples(config: ValidationConfig, data: DataConfig) -> list[dict]:
    """The crops from the middle of the validation photographs, the same every time.

    Args:
      config: the photographs and the crop.
      data: the run's; where it has low resolution, these have it too: real, or by its degradation,
        drawn from the picture's name.

    Returns: samples as of `samples`, not flipped.
    Raises:
      UserError: a folder is missing or empty, or a photograph cannot be used.
    """
    options = "--config.validation.folder", "--config.validation.lr"
    source = open_source(config.folder, options[0], config.lr, options[1])
    with_lr = data.degradation is not None or source.paired
    read = _ReadSample([source], config.crop, data.degradation, with_lr)
    found = []
    for index in range(len(source)):
        try:
            found.append(read.middle(source.read(index)))
        except BadPicture as error:
            raise UserError(
                f"{source.name(index)} cannot be used with "
                f"--config.validation.crop={config.crop}: {error}."
            ) from error
    return found


class _Share(grain.MapDataset):
    """A block of each batch: the samples of one of several processes."""

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
        cv2.setNumThreads(0)  # these threads keep the processors busy
        options = grain.ReadOptions(
            num_threads=config.threads, prefetch_buffer_size=max(ahead, config.threads)
        )
        return dataset.to_iter_dataset(options)
    from absl import flags

    if not flags.FLAGS.is_parsed():  # Grain reads absl flags, which only absl's programs parse
        flags.FLAGS.mark_as_parsed()
    ahead = -(-ahead // config.workers)
    _check_shared_memory(config, ahead)
    limit_threads_of_children()
    threads = -(-config.threads // config.workers)
    # A single thread in a worker would only add a hand-over to the process's own.
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
    """Workers hand over pixels in shared memory; containers often have only 64 MB of it."""
    shared = Path("/dev/shm")
    # The queue of each worker, as much again on its way into a batch, and HR and LR of each sample.
    needed = 2 * 2 * config.workers * per_worker * 3 * config.crop**2
    if shared.is_dir() and shutil.disk_usage(shared).free < needed:
        raise UserError(
            f"{config.workers} workers need {needed / 2**20:.0f} MiB in /dev/shm and it has "
            f"{shutil.disk_usage(shared).free / 2**20:.0f}; start the container with a larger "
            "--shm-size, or lower --config.data.prefetch or --config.data.workers."
        )


class _ReadSample(grain.transforms.RandomMap):
    """Reads a picture by its number over all sources, cuts it, and makes LR of it."""

    def __init__(
        self, sources: list[Source], crop: int, degradation: DegradationConfig | None, with_lr: bool
    ):
        self._sources = sources
        self._crop = crop
        self._degradation = degradation
        self._with_lr = with_lr

    def random_map(self, key: int, rng: np.random.Generator) -> dict:
        source, index = self._locate(key)
        events: list[Event] = []
        for _ in range(_MAX_TRIES):
            try:
                sample = source.read(index)
                element = self._cut(sample, rng, events)
                break
            except BadPicture as error:
                events.append(("skipped", source.name(index), str(error)))
            # Another picture of the same source takes its place: batches stay full, and every run
            # replaces it by the same one.
            index = int(rng.integers(len(source)))
        else:
            raise UserError(
                f"{_MAX_TRIES} pictures in a row cannot be used; the last: {events[-1][1]}: "
                f"{events[-1][2]}. Use larger pictures or a smaller --config.data.crop, or sort "
                "them out with `python -m tvt_jax.prepare`."
            )
        return {**element, "prompt": _prompt(sample), "events": events}

    def middle(self, sample: Sample) -> dict:
        """Cuts a sample in its middle; its degradation follows from its name."""
        hr, lr, factor = self._decode(sample, [])
        top, left = (factor * (room // 2) for room in self._room(hr, factor))
        rng = np.random.default_rng(zlib.crc32(Path(sample.name).name.encode()))
        return {
            **self._crop_at(hr, lr, factor, top, left, False, rng),
            "prompt": _prompt(sample),
            "events": [],
        }

    def _locate(self, key: int) -> tuple[Source, int]:
        for source in self._sources:
            if key < len(source):
                return source, key
            key -= len(source)
        raise IndexError(key)

    def _cut(
        self, sample: Sample, rng: np.random.Generator, events: list[Event]
    ) -> dict[str, np.ndarray]:
        """Decodes; a random crop, flipped half of the time; LR likewise or by degradation."""
        hr, lr, factor = self._decode(sample, events)
        rows, columns = self._room(hr, factor)
        top, left = factor * int(rng.integers(rows + 1)), factor * int(rng.integers(columns + 1))
        return self._crop_at(hr, lr, factor, top, left, rng.random() < 0.5, rng)

    def _decode(
        self, sample: Sample, events: list[Event]
    ) -> tuple[np.ndarray, np.ndarray | None, int]:
        """(HR pixels, real LR pixels if there are, HR pixels per LR pixel)."""
        hr, conversions = decode_picture(sample.image, min_side=self._crop)
        lr, factor = None, 1
        if self._with_lr and sample.lr is not None:
            lr = decode_picture(sample.lr).pixels
            factor = _factor_of(hr, lr, self._crop)
            hr = hr[: factor * lr.shape[0], : factor * lr.shape[1]]
        events += [("converted", sample.name, conversion) for conversion in conversions]
        return hr, lr, factor

    def _room(self, hr: np.ndarray, factor: int) -> tuple[int, int]:
        """Places for a crop: rows and columns, in steps of an LR pixel so that both show the same.

        Raises:
          BadPicture: there is none.
        """
        rows, columns = ((side - self._crop) // factor for side in hr.shape[:2])
        if min(rows, columns) < 0:
            raise BadPicture(f"{hr.shape[1]}x{hr.shape[0]} px, smaller than {self._crop}")
        return rows, columns

    def _crop_at(
        self,
        hr: np.ndarray,
        lr: np.ndarray | None,
        factor: int,
        top: int,
        left: int,
        flipped: bool,
        rng: np.random.Generator,
    ) -> dict[str, np.ndarray]:
        crop, flip = self._crop, slice(None, None, -1 if flipped else 1)
        element = {"hr": np.ascontiguousarray(hr[top : top + crop, left : left + crop][:, flip])}
        if lr is not None:
            box = (left / factor, top / factor, (left + crop) / factor, (top + crop) / factor)
            element["lr"] = np.ascontiguousarray(_enlarged(lr, box, crop)[:, flip])
        elif self._with_lr:
            element["lr"] = self._degrade(element["hr"], rng)
        return element

    def _degrade(self, hr: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        recipe = draw_recipe(self._degradation, rng, *hr.shape[:2])
        _, conditioning = degrade(hr.astype(np.float32) / 255, recipe)
        return np.rint(conditioning * 255).astype(np.uint8)  # it is on these levels already


def _prompt(sample: Sample) -> str:
    return f"{', '.join(sample.tags)}, {QUALITY_WORDS}"


def _factor_of(hr: np.ndarray, lr: np.ndarray, crop: int) -> int:
    """HR pixels per LR pixel; raises BadPicture where the two cannot be cut alike."""
    hr_size, lr_size = (hr.shape[1], hr.shape[0]), (lr.shape[1], lr.shape[0])
    factor = pair_factor(hr_size, lr_size)
    if factor is None:
        raise BadPicture(
            f"HR {hr_size[0]}x{hr_size[1]} and LR {lr_size[0]}x{lr_size[1]} px have no whole factor"
        )
    if crop % factor:
        raise BadPicture(f"a crop of {crop} px is no multiple of the pair's factor {factor}")
    return factor


def _enlarged(lr: np.ndarray, box: tuple[float, float, float, float], size: int) -> np.ndarray:
    """The part `box` (left, top, right, bottom) of LR at the size of HR.

    Bicubic by Pillow, as at inference: the part of the enlarged picture, not an enlarged part.
    """
    left, top, right, bottom = box
    if right - left == size:
        return lr[int(top) : int(bottom), int(left) : int(right)]
    picture = Image.fromarray(lr)
    return np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC, box=box))


class Collate:
    """Samples to a batch: stacks, scales to [-1, 1] and tokenizes.

    Args:
      tokenizer: folder of the tokenizer; empty: no tokens.
    """

    def __init__(self, tokenizer: str):
        self._tokenizer = None
        if tokenizer:
            from tvt_jax.weights.tokenizer import load_tokenizer

            self._tokenizer = load_tokenizer(Path(tokenizer))

    def __call__(self, elements: list[dict]) -> dict:
        """Returns {"hr", "lr" if there is one, "tokens" with a tokenizer, "events"} as arrays."""
        batch = {}
        for name in ("hr", "lr"):
            if name in elements[0]:
                shape = (len(elements), *elements[0][name].shape)
                batch[name] = np.empty(shape, np.float32)
                for target, element in zip(batch[name], elements, strict=True):
                    cv2.LUT(element[name], _TO_FLOAT, target)
        if self._tokenizer is not None:
            from tvt_jax.weights.tokenizer import tokenize

            prompts = [element["prompt"] for element in elements]
            batch["tokens"] = tokenize(self._tokenizer, prompts, PROMPT_TOKENS)
        batch["events"] = [element["events"] for element in elements]
        return batch


class Batches(Iterator[dict[str, np.ndarray]]):
    """The stream of batches. Close it, or use it as a context: worker processes hang on it.

    Attributes:
      position: number of the next batch. It is the whole state: store it with a checkpoint, and
        `batches(config, seed, position)` goes on exactly there, with any number of processes,
        workers and threads.
      fingerprint: of the pictures by name (by content for shards). The position means the same
        only while this is the same.
      counts: samples handed out, pictures skipped, and pictures converted by kind.
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
            self._report(f"{reason}: further pictures are converted without being named")

    def _judge(self) -> None:
        skipped = self.counts["skipped"]
        read = self.counts["samples"] + skipped
        if read >= _JUDGED_AFTER and skipped > self._max_failed * read:
            raise UserError(
                f"{skipped} of {read} pictures cannot be used, more than "
                f"--config.data.max_failed={self._max_failed}; the log names them. Sort them out "
                "with `python -m tvt_jax.prepare`, or allow more."
            )
