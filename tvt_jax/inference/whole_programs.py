"""What is compiled for whole images: the restoration, once for each size."""

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from tvt_jax.config import VAEConfig
from tvt_jax.errors import UserError
from tvt_jax.inference import sizing
from tvt_jax.inference.color import color_fix
from tvt_jax.inference.one_step import NOT_FINITE, Report, restore_values
from tvt_jax.inference.options import RestorationOptions
from tvt_jax.inference.posterior_noise import posterior_noise
from tvt_jax.inference.tiling import Span, Tile
from tvt_jax.memory import compile_to_fit
from tvt_jax.models.networks import Network
from tvt_jax.parallel import lower_over

_MOST_PROGRAMS = 16  # of a kind in memory, one for each size; all of them are on the disk


class WholePrograms:
    """Compiles the programs and runs them.

    Args:
      precisions, alpha_bar: as of `TilePrograms`.
      vae: its configuration.
      multiple: of px that images are padded to.
      mesh: of the devices that share an image, which hold the weights; None for one.
    """

    def __init__(
        self,
        precisions: Callable[[str, Report], Iterator[tuple[Network, Network]]],
        alpha_bar: float,
        vae: VAEConfig,
        multiple: int,
        mesh: Mesh | None = None,
    ):
        self._precisions, self._alpha_bar, self._vae = precisions, alpha_bar, vae
        self._multiple, self._mesh = multiple, mesh
        # Of the networks by padded size; of the colour fix by the image's own.
        self._compiled: dict[tuple, jax.stages.Compiled] = {}
        self._fixes: dict[tuple, jax.stages.Compiled] = {}

    def restore(
        self, image: np.ndarray, context: jax.Array, options: RestorationOptions, report: Report
    ) -> np.ndarray:
        """Restores an image, and applies the colour fix.

        Args:
          image: [H, W, 3] uint8 or uint16, the enlarged input.
          context: [1, N, C], the embedding of the prompt.
          options: posterior, colour fix and blend.
          report: takes a line about what is done again.

        Returns: [H, W, 3] float32, about [0, 1].
        Raises:
          UserError: memory does not suffice, or the networks' output is not finite.
        """
        padded, noise = jnp.asarray(sizing.pad(image, self._multiple)), None
        if options.seed_of_sample is not None:
            whole = Tile(*(Span(0, side, 0, side) for side in padded.shape[:2]))
            sizes = self._vae.downsampling, self._vae.latent_channels
            noise = posterior_noise(options.seed_of_sample, whole, *sizes)[None]
        for networks in self._precisions("the image", report):
            restored, finite = self._run(*networks, padded, context, noise)
            if finite:
                return np.asarray(self._fix(restored, image, options))
        raise UserError(NOT_FINITE)

    def _run(self, vae: Network, unet: Network, image, context, noise) -> tuple[jax.Array, bool]:
        arguments = (vae.params, unet.params, image, context, noise)
        cached = (unet.dtype, image.shape, image.dtype, context.shape, noise is None)
        if cached not in self._compiled:
            step = functools.partial(_one_step, vae, unet, self._alpha_bar)
            program, _ = compile_to_fit(
                lower_over(self._mesh, step, *arguments),
                f"an image of {image.shape[1]}x{image.shape[0]} px",
                "use a smaller image or a smaller scale",
            )
            _keep(self._compiled, cached, program)
        restored, finite = self._compiled[cached](*arguments)
        return restored, bool(finite)

    def _fix(self, restored, image: np.ndarray, options: RestorationOptions) -> jax.Array:
        cached = (restored.shape, image.shape, image.dtype, options.color_fix)
        arguments = (restored, image, np.float32(options.blend))
        if cached not in self._fixes:
            fix = functools.partial(_finish, method=options.color_fix)
            _keep(self._fixes, cached, jax.jit(fix).lower(*arguments).compile())
        return self._fixes[cached](*arguments)


def _keep(programs: dict, key: tuple, program: jax.stages.Compiled) -> None:
    """Adds a program, in the place of the oldest where there are too many."""
    if len(programs) == _MOST_PROGRAMS:
        del programs[next(iter(programs))]
    programs[key] = program


def _one_step(vae, unet, alpha_bar, vae_params, unet_params, image, context, noise):
    """(image [H, W, 3] float32 in [0, 1], whether it is finite) of a padded one."""
    images, finite = restore_values(
        vae(vae_params), unet(unet_params), image[None], context,
        scaling_factor=vae.config.scaling_factor, alpha_bar=alpha_bar, noise=noise,
    )  # fmt: skip
    return images[0], finite


def _finish(restored, image, blend, method):
    """Crops, applies the colour fix and blends with the input [H, W, 3]."""
    reference = image.astype(jnp.float32) / jnp.iinfo(image.dtype).max
    fixed = color_fix(restored[: image.shape[0], : image.shape[1]], reference, method)
    return fixed + blend * (reference - fixed)
