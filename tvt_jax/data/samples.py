"""Samples: a crop of an image, its low resolution and its prompt; and batches of samples."""

import zlib
from pathlib import Path

import grain
import numpy as np
from PIL import Image

from tvt_jax.config import DataConfig, DegradationConfig, ValidationConfig
from tvt_jax.data.degradation import degrade, draw_recipe
from tvt_jax.data.pairs import pair_factor
from tvt_jax.data.sources import Sample, Source, open_source
from tvt_jax.errors import UserError
from tvt_jax.images import BadImage, decode_image
from tvt_jax.text import build_prompt, load_tokenizer, tokenize

PROMPT_TOKENS = 77  # CLIP's fixed length
# This many unusable images in a row mean that hardly any is usable.
_MAX_TRIES = 50

Event = tuple[str, str, str]  # "skipped" or "converted", name of the image, reason


def heldout_samples(config: ValidationConfig, data: DataConfig) -> list[dict]:
    """The centre crops of the validation photographs, the same every time.

    Args:
      config: the photographs and the crop.
      data: the run's; if it has low resolution, so have these: real, or by its degradation, drawn
        from the image's name.

    Returns: samples as of `pipeline.samples`, not flipped.
    Raises:
      UserError: a folder is missing or empty, or a photograph cannot be used.
    """
    source = open_source(config.folder, config.lr)
    with_lr = data.degradation is not None or source.paired
    read = ReadSample([source], config.crop, data.degradation, with_lr, data.prompt)
    found = []
    for index in range(len(source)):
        try:
            found.append(read.middle(source.read(index)))
        except BadImage as error:
            raise UserError(
                f"{source.name(index)} cannot be used with "
                f"`config.validation.crop={config.crop}`: {error}."
            ) from error
    return found


class ReadSample(grain.transforms.RandomMap):
    """Reads an image by its number over all sources, crops it, and makes its LR.

    Args:
      sources: numbered one after the other.
      crop: side of the crops, px.
      degradation: makes LR of images that have none.
      with_lr: whether samples have LR.
      prompt: appended to the tags in the samples' prompts.
    """

    def __init__(
        self,
        sources: list[Source],
        crop: int,
        degradation: DegradationConfig | None,
        with_lr: bool,
        prompt: str,
    ):
        self._sources = sources
        self._crop = crop
        self._degradation = degradation
        self._with_lr = with_lr
        self._prompt = prompt

    def random_map(self, key: int, rng: np.random.Generator) -> dict:
        """Returns the sample of a number, as of `pipeline.samples`.

        Raises:
          UserError: neither it nor its replacements can be used.
        """
        source, index = self._locate(key)
        events: list[Event] = []
        for _ in range(_MAX_TRIES):
            try:
                sample = source.read(index)
                element = self._cut(sample, rng, events)
                break
            except BadImage as error:
                events.append(("skipped", source.name(index), str(error)))
            # Another image of the same source replaces it, the same one in every run: batches
            # stay full.
            index = int(rng.integers(len(source)))
        else:
            raise UserError(
                f"{_MAX_TRIES} images in a row cannot be used; the last: {events[-1][1]}: "
                f"{events[-1][2]}. Use larger images or a smaller `config.data.crop`, or sort "
                "them out with `python -m tvt_jax.prepare`."
            )
        return {**element, "prompt": build_prompt(sample.tags, self._prompt), "events": events}

    def middle(self, sample: Sample) -> dict:
        """Takes the centre crop; the degradation is drawn from the image's name."""
        hr, lr, factor = self._decode(sample, [])
        top, left = (factor * (room // 2) for room in self._room(hr, factor))
        rng = np.random.default_rng(zlib.crc32(Path(sample.name).name.encode()))
        return {
            **self._crop_at(hr, lr, factor, top, left, False, rng),
            "prompt": build_prompt(sample.tags, self._prompt),
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
        hr, conversions = decode_image(sample.image, min_side=self._crop)
        lr, factor = None, 1
        if self._with_lr and sample.lr is not None:
            lr = decode_image(sample.lr).pixels
            factor = pair_factor(hr, lr, self._crop)
            hr = hr[: factor * lr.shape[0], : factor * lr.shape[1]]
        events += [("converted", sample.name, conversion) for conversion in conversions]
        return hr, lr, factor

    def _room(self, hr: np.ndarray, factor: int) -> tuple[int, int]:
        """Possible crop positions (rows, columns), in steps of an LR pixel so that HR and LR align.

        Raises:
          BadImage: there is none.
        """
        rows, columns = ((side - self._crop) // factor for side in hr.shape[:2])
        if min(rows, columns) < 0:
            raise BadImage(f"{hr.shape[1]}x{hr.shape[0]} px, smaller than {self._crop}")
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
        return np.rint(conditioning * 255).astype(np.uint8)  # already on these levels


def _enlarged(lr: np.ndarray, box: tuple[float, float, float, float], size: int) -> np.ndarray:
    """The part `box` (left, top, right, bottom) of LR at the size of HR.

    Bicubic by Pillow, as at inference: a crop of the enlarged image, not an enlarged crop.
    """
    left, top, right, bottom = box
    if right - left == size:
        return lr[int(top) : int(bottom), int(left) : int(right)]
    image = Image.fromarray(lr)
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box))


class Collate:
    """Samples to a batch: stacks images and tokenizes prompts.

    Args:
      tokenizer: folder of the tokenizer; empty: no tokens.
    """

    def __init__(self, tokenizer: str):
        self._tokenizer = None
        if tokenizer:
            self._tokenizer = load_tokenizer(Path(tokenizer))

    def __call__(self, elements: list[dict]) -> dict:
        """Returns {"hr", "lr" if there is one, "tokens" with a tokenizer, "events"} as arrays."""
        batch = {}
        for name in ("hr", "lr"):
            if name in elements[0]:
                batch[name] = np.stack([element[name] for element in elements])
        if self._tokenizer is not None:
            prompts = [element["prompt"] for element in elements]
            batch["tokens"] = tokenize(self._tokenizer, prompts, PROMPT_TOKENS)
        batch["events"] = [element["events"] for element in elements]
        return batch
