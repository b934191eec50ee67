"""What is compiled for tiles: statistics of a sample of crops, and the restoration of a tile."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from tvt_jax.errors import UserError
from tvt_jax.inference.color import to_lab
from tvt_jax.inference.norm_statistics import (
    GivenStatistics,
    JointStatistics,
    Parts,
    Statistics,
    Sums,
)
from tvt_jax.inference.one_step import NOT_FINITE, Report, restore_values
from tvt_jax.models.layers import GroupNorm, group_norm_statistics
from tvt_jax.models.networks import Network
from tvt_jax.parallel import lower_over

# Groups of the last two norms, the colours of the input and of the output: RGB and CIELAB.
COLORS = 6


class Batch(NamedTuple):
    """Parts of an image that are worked on together.

    Attributes:
      images: [B, h, w, 3] uint8 or uint16.
      parts: what of them counts.
      noise: [B, h', w', C] float32, for a sample of the encoder's posterior; None for its mean.
    """

    images: np.ndarray
    parts: Parts
    noise: np.ndarray | None


class TilePrograms:
    """Compiles the programs, one for each shape, and runs them.

    Args:
      precisions: takes what is restored and where to tell; yields VAE and UNet, then, for what is
        not finite, the two in float32.
      alpha_bar: of the one timestep.
      compile_program: compiles a lowered program, given what to call it.
      mesh: as of `WholePrograms`.
    """

    def __init__(
        self,
        precisions: Callable[[str, Report], Iterator[tuple[Network, Network]]],
        alpha_bar: float,
        compile_program: Callable[[jax.stages.Lowered, str], jax.stages.Compiled],
        mesh: Mesh | None = None,
    ):
        self._precisions, self._alpha_bar = precisions, alpha_bar
        self._compile_program, self._mesh = compile_program, mesh
        self._compiled: dict[Any, jax.stages.Compiled] = {}
        vae, unet = next(precisions("", print))
        self.vae_config = vae.config
        self._num_groups = count_statistics(vae, unet)

    def sample(
        self,
        crops: Batch,
        context: jax.Array,
        correction: Statistics | None,
        report: Report,
    ) -> Statistics:
        """The joint statistics of crops.

        Args:
          crops: of one size.
          context: [1, N, C], the embedding of the prompt.
          correction: see `JointStatistics`; None for none.
          report: takes lines about what is compiled or done again.

        Returns: float64.
        Raises:
          UserError: the networks' output is not finite.
        """
        if correction is None:
            correction = Statistics(np.zeros(self._num_groups), np.ones(self._num_groups))
        number = len(crops.images)
        context = jnp.broadcast_to(context, (number, *context.shape[1:]))
        found = self._run(
            sample_statistics, f"a sample of {number} crops", report, crops, context, correction
        )
        return Statistics(*(np.asarray(x, np.float64) for x in found))

    def restore(
        self,
        tile: Batch,
        context: jax.Array,
        statistics: Statistics,
        what: str,
        report: Report,
    ) -> tuple[jax.Array, Sums]:
        """Restores one tile.

        Args:
          tile: a batch of one.
          context, report: as of `sample`.
          statistics: of the whole image.
          what: the tile, for messages.

        Returns: (pixels [h, w, 3] float32 in [0, 1], before the colour fix; sums of its own part).
        Raises:
          UserError: the networks' output is not finite.
        """
        pixels, sums = self._run(restore_tile, what, report, tile, context, statistics)
        return pixels, Sums(*(np.asarray(x, np.float64) for x in sums))

    def _run(self, program: Callable, what: str, report: Report, batch: Batch, context, given):
        given = Statistics(*(np.asarray(x, np.float32) for x in given))
        for vae, unet in self._precisions(what, report):
            arguments = (batch, context, given)
            kinds = [(x.shape, x.dtype) for x in jax.tree.leaves(arguments)]
            key = (program, unet.dtype, *kinds)
            if key not in self._compiled:
                size = f"{batch.images.shape[2]}x{batch.images.shape[1]} px"
                report(f"compiling for {what} of {size} (once for this size)")
                lowered = lower_program(
                    program, vae, unet, self._alpha_bar, *arguments, mesh=self._mesh
                )
                self._compiled[key] = self._compile_program(lowered, what)
            result, finite = self._compiled[key](vae.params, unet.params, *arguments)
            if finite:
                return result
        raise UserError(NOT_FINITE)


def lower_program(
    program: Callable,
    vae: Network,
    unet: Network,
    alpha_bar: float,
    batch: Batch,
    context: jax.Array,
    given: Statistics,
    mesh: Mesh | None = None,
) -> jax.stages.Lowered:
    """Lowers `sample_statistics` or `restore_tile`, of VAE's and UNet's weights and the last three.

    Args:
      vae, unet, batch, context, given: of arrays or `jax.ShapeDtypeStruct`.
      alpha_bar, mesh: as of `TilePrograms`.
    """

    def step(vae_params, unet_params, *arguments):
        networks = vae(vae_params), unet(unet_params)
        return program(networks, vae.config, alpha_bar, *arguments)

    return lower_over(mesh, step, vae.params, unet.params, batch, context, given)


def sample_statistics(networks, config, alpha_bar, crops, context, correction):
    """The program of `TilePrograms.sample`.

    Args:
      networks: VAE and UNet, as modules.
      config: of the VAE.
      alpha_bar, crops, correction: as of `TilePrograms`.
      context: [B, N, C], the embedding of the prompt for each crop.

    Returns: (`Statistics` of the crops, whether the networks' output is finite).
    """
    statistics = JointStatistics(crops.parts, crops.images.shape[1:3], correction)
    _, finite = _one_step(networks, config, alpha_bar, crops, context, statistics)
    return statistics.found(), finite


def restore_tile(networks, config, alpha_bar, tile, context, given):
    """The program of `TilePrograms.restore`.

    Args:
      networks, config, alpha_bar: as of `sample_statistics`.
      tile: a batch of one.
      context: [1, N, C], the embedding of the prompt.
      given: the statistics of the whole image.

    Returns: ((pixels [h, w, 3] float32 in [0, 1], `Sums`), whether the output is finite).
    """
    statistics = GivenStatistics(tile.parts, tile.images.shape[1:3], given)
    pixels, finite = _one_step(networks, config, alpha_bar, tile, context, statistics)
    return (pixels[0], statistics.sums()), finite


def _one_step(networks, config, alpha_bar, batch, context, statistics):
    with group_norm_statistics(statistics):
        pixels, finite = restore_values(
            *networks, batch.images, context,
            scaling_factor=config.scaling_factor, alpha_bar=alpha_bar, noise=batch.noise,
        )  # fmt: skip
    images = batch.images.astype(jnp.float32) / jnp.iinfo(batch.images.dtype).max
    # The norms of the networks see the padding at the end of the image, its colours do not.
    statistics.parts = batch.parts.without_padding()
    for colors in (images, pixels):
        statistics(jnp.concatenate([colors, to_lab(colors)], axis=-1), COLORS)
    return pixels, finite


def count_statistics(vae: Network, unet: Network) -> int:
    """How many means, and variances, are those of an image."""
    modules = [network(network.params) for network in (vae, unet)]
    nodes = [node for module in modules for _, node in nnx.iter_graph(module)]
    return sum(node.num_groups for node in nodes if isinstance(node, GroupNorm)) + 2 * COLORS
