"""Speed of restoration: VAE and UNet, without text encoder and tagger."""

import functools
import time

import jax
import numpy as np

from tvt_jax.benchmarks.complexity import multiply_adds
from tvt_jax.benchmarks.speed import Program, Speed, program_speed
from tvt_jax.errors import UserError
from tvt_jax.memory import compile_to_fit
from tvt_jax.models.networks import Network
from tvt_jax.restoration import restore

_TEXT_TOKENS = 77
_ALPHA_BAR = 0.5  # any: speed does not depend on it


def compile_restoration(
    vae: Network, unet: Network, images: np.ndarray, context: np.ndarray, alpha_bar: float
) -> Program:
    """Compiles `restoration.restore` for the default device.

    Args:
      vae, unet: they compute in their own dtypes.
      images: [B, H, W, 3] float32 in [-1, 1].
      context: [B, N, C], the embedding of the prompt.
      alpha_bar: as of `restore`.

    Raises:
      UserError: memory does not suffice.

    Returns: the program, which gives (images, clean latent) as `restore`.
    """
    step = functools.partial(_step, vae, unet, alpha_bar)
    arguments = jax.device_put((vae.params, unet.params, images, context))
    flops = 2.0 * sum(multiply_adds(step, *jax.eval_shape(lambda *a: a, *arguments)))
    start = time.perf_counter()
    what = f"a batch of {images.shape[0]} images of {images.shape[2]}x{images.shape[1]} px"
    program, needed = compile_to_fit(
        jax.jit(step).lower(*arguments), what, "use a smaller `batch_size` or `size`"
    )
    return Program(
        run=functools.partial(program, *arguments),
        dtype=unet.dtype.name,
        devices=1,
        batch_size=len(images),
        flops=flops,
        held=sum(leaf.nbytes for leaf in jax.tree.leaves(arguments)),
        needed=needed,
        compile_seconds=time.perf_counter() - start,
    )


def infer_speed(vae: Network, unet: Network, size: int, batch_size: int, rounds: int) -> Speed:
    """Times the restoration of random images.

    Args:
      vae, unet: they compute in their own dtypes.
      size: side of the square images, px (of the output); a multiple of what the networks reduce
        an image by.
      batch_size: images at a time.
      rounds: as of `program_speed`.

    Raises:
      UserError: a number does not fit, or memory does not suffice.
    """
    unit = vae.config.downsampling * 2 ** (len(unet.config.block_out_channels) - 1)
    if size < unit or size % unit:
        raise UserError(f"`size` {size} must be a multiple of {unit} px with these networks.")
    if batch_size < 1:
        raise UserError("`batch_size` must be at least 1.")
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (batch_size, size, size, 3)).astype(np.float32)
    text = (batch_size, _TEXT_TOKENS, unet.config.cross_attention_dim)
    context = rng.standard_normal(text, np.float32).astype(unet.dtype)
    what = f"{size} px, UNet {unet.dtype.name}, VAE {vae.dtype.name}"
    arguments = (vae, unet, images, context, _ALPHA_BAR)
    return program_speed(what, rounds, compile_restoration, *arguments)


def _step(vae, unet, alpha_bar, vae_params, unet_params, images, context):
    options = {"scaling_factor": vae.config.scaling_factor, "alpha_bar": alpha_bar}
    return restore(vae(vae_params), unet(unet_params), images, context, **options)
