"""Statistics of group norms over parts of an image, given to networks while they are traced.

All statistics of a network are two vectors, mean and variance, in which the groups of every norm
follow each other in the order of the calls. `group_norm_statistics` of `models/layers.py` takes the
classes here.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_TINY = 1e-8  # far below the norms' epsilons: a flat sample can be corrected by a ratio


class Statistics(NamedTuple):
    """Mean and variance [groups of all norms] float32; on the host float64."""

    mean: jax.Array | np.ndarray
    variance: jax.Array | np.ndarray


class Sums(NamedTuple):
    """Of the positions and channels of each group: number, sum and sum of squares of x - mean."""

    number: jax.Array | np.ndarray
    first: jax.Array | np.ndarray
    second: jax.Array | np.ndarray

    def statistics(self, mean: np.ndarray) -> Statistics:
        """The statistics of x, in float64, given the mean that was subtracted from it."""
        number, first, second = (np.asarray(x, np.float64) for x in self)
        shift = first / number
        return Statistics(mean + shift, np.maximum(second / number - shift**2, 1e-12))


class Parts(NamedTuple):
    """Which positions of a batch of tiles count.

    Attributes:
      own: [B, 4] int32, first and last row, first and last column of each tile's own part, px.
      real: [B, 2] int32, rows and columns that are image; the rest is padding.
    """

    own: jax.Array
    real: jax.Array

    def without_padding(self) -> "Parts":
        """The same, with padding left out of the own parts."""
        return Parts(jnp.minimum(self.own, jnp.repeat(self.real, 2, axis=1)), self.real)


@dataclasses.dataclass
class JointStatistics:
    """The common statistics of a batch of crops, corrected by what is known to be wrong of them.

    Attributes:
      parts: which positions count; it may change between two norms.
      size: (height, width) of the crops, px.
      correction: difference of the means and ratio of the variances.
    """

    parts: Parts
    size: tuple[int, int]
    correction: Statistics

    def __post_init__(self):
        self._taken, self._found = 0, []

    def __call__(self, x, num_groups):
        """x [B, h, w, C] -> (x minus the mean, variance [1, 1, 1, C])."""
        weights = _weights(self.parts.own, self.size, x.shape[1:3])
        number = jnp.sum(weights) * (x.shape[-1] // num_groups)
        correction = [c[self._taken : self._taken + num_groups] for c in self.correction]
        self._taken += num_groups
        mean = _group_sums(x, weights, num_groups) / number
        centred = x - _channels(mean, x)
        variance = _group_sums(jnp.square(centred), weights, num_groups) / number
        mean, variance = mean + correction[0], (variance + _TINY) * correction[1]
        self._found.append((mean, variance))
        return x - _channels(mean, x), _channels(variance, x)

    def found(self) -> Statistics:
        """What was used, of all norms."""
        assert self._taken == len(self.correction.mean)
        return Statistics(*map(jnp.concatenate, zip(*self._found, strict=True)))


@dataclasses.dataclass
class GivenStatistics:
    """Statistics of the whole image for one of its tiles, whose own sums are recorded.

    Attributes:
      parts: of a batch of one, as in `JointStatistics`.
      size: (height, width) of the tile, px.
      statistics: of all norms.
    """

    parts: Parts
    size: tuple[int, int]
    statistics: Statistics

    def __post_init__(self):
        self._taken, self._sums = 0, []

    def __call__(self, x, num_groups):
        """x [1, h, w, C] -> (x minus the mean, variance [1, 1, 1, C])."""
        weights = _weights(self.parts.own, self.size, x.shape[1:3])
        mean, variance = (s[self._taken : self._taken + num_groups] for s in self.statistics)
        self._taken += num_groups
        centred = x - _channels(mean, x)
        number = jnp.full((num_groups,), jnp.sum(weights) * (x.shape[-1] // num_groups))
        first = _group_sums(centred, weights, num_groups)
        second = _group_sums(jnp.square(centred), weights, num_groups)
        self._sums.append((number, first, second))
        return centred, _channels(variance, x)

    def sums(self) -> Sums:
        """Of the tile's own part, of all norms."""
        assert self._taken == len(self.statistics.mean)
        return Sums(*map(jnp.concatenate, zip(*self._sums, strict=True)))


def _group_sums(x, weights, num_groups):
    """Weighted sums [groups] over everything but the groups of channels."""
    sums = jnp.sum(jnp.sum(x * weights, axis=2), axis=(0, 1))  # in two steps: float32 adds up
    return jnp.sum(sums.reshape(num_groups, -1), axis=1)


def _channels(values, x):
    """[groups] -> [1, 1, 1, C], that broadcasts to x."""
    return jnp.repeat(values, x.shape[-1] // values.shape[0])[None, None, None]


def _weights(own, size, level):
    """[B, h, w, 1] float32: 1 where a position of a level of h x w belongs to the own part.

    A level is the image at a power of two less, rounded up.
    """
    inside = []
    for axis in (0, 1):
        factor = 1
        while -(-size[axis] // factor) > level[axis]:
            factor *= 2
        px = factor * jnp.arange(level[axis], dtype=jnp.int32)[None]
        first, last = own[:, 2 * axis, None], own[:, 2 * axis + 1, None]
        inside.append(((px >= first) & (px < last)).astype(jnp.float32))
    rows, columns = inside
    return (rows[:, :, None] * columns[:, None, :])[..., None]
