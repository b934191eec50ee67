"""Restoration by tiles of one shape, with the group norms' statistics of the whole image.

What tiles would change is the statistics alone: everything else in the networks is local, to a
margin. They are estimated from a sample of crops that are restored together, and corrected by what
a first sweep over all tiles says they really are; a second sweep writes the pixels. It says again
what they are: where they were not known well enough, a third one writes the pixels anew.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from tvt_jax.inference.color import color_fix, from_lab, match_statistics, to_lab
from tvt_jax.inference.norm_statistics import Parts, Statistics, Sums
from tvt_jax.inference.one_step import Report
from tvt_jax.inference.posterior_noise import posterior_noise
from tvt_jax.inference.tile_programs import COLORS, Batch, TilePrograms
from tvt_jax.inference.tiling import Tile, Tiles, cut, quarters, sample_crops
from tvt_jax.inference.unfinished import Unfinished

_STRIP = 8  # px beyond a border that are compared with what the neighbour has there
_KNOWN = 0.04  # error of the statistics up to which the image is the whole one's to a level or two
_SWEEPS = 3  # at most
_SEAM = 2.0  # levels of 255 between neighbours, in the mean, from which a border is seen


class Source(Protocol):
    """The enlarged input, which need not be in memory."""

    size: tuple[int, int]  # height and width, px
    padded: tuple[int, int]  # the same, as multiples of what the networks reduce them by

    def read(self, tile: Tile) -> np.ndarray:
        """The part of the padded image that a tile sees, [h, w, 3] uint8 or uint16."""


class Accuracy(NamedTuple):
    """What is known of the difference from the image restored whole.

    Attributes:
      sampled, corrected: by how much the norms' statistics are wrong, in deviations of each group,
        root mean square: those of the sample, and after the correction.
      seam: the largest mean difference of two neighbours along their border, in levels of 255.
    """

    sampled: float
    corrected: float
    seam: float

    def described(self) -> str:
        """One line."""
        line = (
            f"the norms' statistics are known to {100 * self.corrected:.2g} % (before the "
            f"correction {100 * self.sampled:.2g} %); along borders of tiles the images differ by "
            f"{self.seam:.2g} levels at most, in the mean"
        )
        if self.corrected > self.sampled:
            line += ": they got no better, and a larger tile may help"
        return line


@dataclasses.dataclass
class TiledRestoration:
    """The restoration of one image.

    Attributes:
      programs: that restore tiles.
      source: the enlarged input.
      context: [1, N, C], the embedding of the prompt.
      method: of the colour fix.
      blend: share of the input in the output.
      seed: of the sample of the encoder's posterior; None takes its mean.
      tiles: how the image is cut.
      work: pixels [H, W, 3] uint8, uint16, or float32 in [0, 1], and how far they are.
      report: takes a line about what is compiled or done again.
      progress: takes how many steps are done and how many there are.
    """

    programs: TilePrograms
    source: Source
    context: jax.Array
    method: str
    blend: float
    seed: int | None
    tiles: Tiles
    work: Unfinished
    report: Report
    progress: Callable[[int, int], None]

    def __call__(self) -> Accuracy:
        """Restores into `work.pixels`, from where `work` was left.

        Raises:
          UserError: the networks' output is not finite.
        """
        work = self.work
        if work.statistics is None:
            work.statistics = self._sample(None)
        while True:
            true = self._sweep(self._write if work.sweep else self._measure)
            error = _error(work.statistics, true)
            if not work.sweep:
                work.sampled = error
            elif error <= _KNOWN or work.sweep == _SWEEPS - 1:
                return Accuracy(work.sampled, error, work.seam)
            else:
                self.report(
                    f"the norms' statistics are known to {100 * error:.2g} % only: once more with "
                    "better ones"
                )
            mean, variance = work.statistics
            work.correct(Statistics(true.mean - mean, true.variance / variance))
            work.statistics = self._sample(work.correction)

    def _sweep(self, visit: Callable[[Tile], Sums]) -> Statistics:
        """Visits the tiles that are left; returns what the statistics are by all of them."""
        work, parts = self.work, cut(self.source.padded, self.tiles)
        before, total = work.sweep * len(parts), max(2, work.sweep + 1) * len(parts)
        self.progress(before + work.tiles, total)
        for tile in parts[work.tiles :]:
            sums = visit(tile)
            work.sums = sums if work.sums is None else Sums(*map(np.add, work.sums, sums))
            work.tiles += 1
            work.save()
            self.progress(before + work.tiles, total)
        return work.sums.statistics(work.statistics.mean)

    def _sample(self, correction: Statistics | None) -> Statistics:
        crops = self._batch(sample_crops(self.source.padded, self.tiles))
        return self.programs.sample(crops, self.context, correction, self.report)

    def _measure(self, tile: Tile) -> Sums:
        _, sums = self._restore(tile, self._batch([tile]))
        return sums

    def _write(self, tile: Tile) -> Sums:
        """Writes a tile; in quarters, that see more around them, where it does not fit in."""
        pixels, sums = self._finished(tile)
        seam = self._seam(tile, pixels)
        if seam > _SEAM:
            before, seam = seam, 0.0
            for quarter in quarters(tile, self.source.padded, self.tiles):
                pixels, _ = self._finished(quarter)
                seam = max(seam, self._seam(quarter, pixels))
                self._put(quarter, pixels)
            self.report(
                f"{_name(tile)} differs by {before:.1f} levels from its neighbours; "
                f"with a larger margin by {seam:.1f}"
            )
        else:
            self._put(tile, pixels)
        self.work.seam = max(self.work.seam, seam)
        return sums

    def _restore(self, tile: Tile, batch: Batch) -> tuple[jax.Array, Sums]:
        arguments = (batch, self.context, self.work.statistics, _name(tile), self.report)
        return self.programs.restore(*arguments)

    def _finished(self, tile: Tile) -> tuple[np.ndarray, Sums]:
        """(All pixels that a tile sees, [h, w, 3] in the dtype of the output; its sums)."""
        batch = self._batch([tile])
        pixels, sums = self._restore(tile, batch)
        colors = Statistics(*(np.float32(x[-2 * COLORS :]) for x in self.work.statistics))
        [image], [real] = batch.images, batch.parts.real
        pixels = _fix_colors(pixels, image, real, colors, self.method, self.blend)
        return quantised(np.asarray(pixels), self.work.pixels.dtype), sums

    def _put(self, tile: Tile, pixels: np.ndarray) -> None:
        own = tile.own(self.source.size)
        self.work.pixels[own] = tile.crop(pixels, own)

    def _seam(self, tile: Tile, pixels: np.ndarray) -> float:
        """How far a tile is from its neighbours above and to the left, just beyond its border."""
        rows, columns = tile.own(self.source.size)
        above = slice(max(rows.start - _STRIP, tile.rows.start), rows.start), columns
        left = rows, slice(max(columns.start - _STRIP, tile.columns.start), columns.start)
        strips = [(tile.crop(pixels, s), self.work.pixels[s]) for s in (above, left)]
        return max([_difference(*pair) for pair in strips if pair[0].size], default=0.0)

    def _batch(self, tiles: Sequence[Tile]) -> Batch:
        images, noise = np.stack([self.source.read(tile) for tile in tiles]), None
        if self.seed is not None:
            vae = self.programs.vae_config
            sizes = (vae.downsampling, vae.latent_channels)
            noise = np.stack([posterior_noise(self.seed, tile, *sizes) for tile in tiles])
        own = [[n - s.start for s in tile for n in (s.first, s.last)] for tile in tiles]
        real = [
            [min(s.stop, n) - s.start for s, n in zip(tile, self.source.size, strict=True)]
            for tile in tiles
        ]
        parts = Parts(np.array(own, np.int32), np.array(real, np.int32))
        return Batch(images, parts, noise)


@functools.partial(jax.jit, static_argnames="method")
def _fix_colors(pixels, image, real, colors, method, blend):
    """Applies the colour fix to a tile as to the whole image.

    Args:
      pixels: [h, w, 3] float32 in [0, 1], what the networks make of `image`.
      image: [h, w, 3] uint8 or uint16.
      real: [2] int32, rows and columns that are no padding.
      colors: `Statistics` of the whole input and the whole output.
      method: see `color_fix`.
      blend: share of the input in the result.
    """
    image = image.astype(jnp.float32) / jnp.iinfo(image.dtype).max
    rgb, lab = (
        [x.reshape(2, 1, 1, COLORS)[..., part] for x in colors]
        for part in (slice(0, 3), slice(3, 6))
    )
    if method == "adain":
        fixed = _matched(pixels, *rgb)
    elif method == "lab":
        fixed = from_lab(_matched(to_lab(pixels), *lab))
    else:
        fixed = color_fix(pixels, image, method, tuple(real))
    return fixed + blend * (image - fixed)


def _matched(pixels, means, variances):
    (wanted_mean, mean), (wanted, variance) = means, variances
    return match_statistics(pixels - mean, variance, wanted_mean, wanted)


def quantised(pixels: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """About [0, 1] float32 -> the whole range of uint8 or uint16; float32 stays."""
    if dtype == np.float32:
        return pixels
    white = np.iinfo(dtype).max
    return np.round(np.clip(pixels, 0.0, 1.0) * white).astype(dtype)


def _difference(first: np.ndarray, second: np.ndarray) -> float:
    """Mean difference in levels of 255."""
    white = 1.0 if first.dtype == np.float32 else np.iinfo(first.dtype).max
    difference = first.astype(np.float32) - second.astype(np.float32)
    return float(np.mean(np.abs(difference)) * 255.0 / white)


def _error(used: Statistics, true: Statistics) -> float:
    """How wrong means and deviations are, in true deviations; root mean square of all groups."""
    deviation = np.sqrt(true.variance + 1e-6)  # what the norms divide by, about
    mean = (used.mean - true.mean) / deviation
    spread = np.sqrt(used.variance + 1e-6) / deviation - 1
    return float(np.sqrt(np.mean(mean**2 + spread**2)))


def _name(tile: Tile) -> str:
    return f"the tile at {tile.columns.first},{tile.rows.first}"
