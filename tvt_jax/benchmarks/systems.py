"""The paper's systems: their networks, and what they take on the machine at hand."""

import dataclasses
import functools
import statistics
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tvt_jax.config import UNETS, VAES, UNetConfig
from tvt_jax.errors import UserError
from tvt_jax.memory import compile_to_fit
from tvt_jax.models.networks import Network, init_network
from tvt_jax.restoration import restore

# Of Tables 5 and 7: (VAE, UNet, side of the latent of a 512 px image).
SYSTEMS = {
    "V1": ("V1", "CE-UNet", 128),
    "V2": ("V2", "CE-UNet", 128),
    "S1": ("VAE-D8", "SD 2.1", 64),
    "S2": ("VAE-D8-SC", "SD 2.1", 64),
    "S3": ("VAE-D8C8", "SD 2.1", 64),
    "S4": ("VAE-D4", "SD 2.1", 128),
    "S5": ("VAE-D4", "Prun-UNet", 128),
    "TVT": ("VAE-D4", "CE-UNet", 128),
}
_TEXT_TOKENS = 77
_ALPHA_BAR = 0.5  # any: speed does not depend on it


class SystemSpeed(NamedTuple):
    """One measurement: VAE and UNet, without text encoder and tagger.

    Attributes:
      seconds: of restoring an image, the median.
      weights: bytes.
      needed: bytes on top of them, by the compiler; None where it does not tell.
    """

    seconds: float
    weights: int
    needed: int | None


def system_unet(vae: str, unet: str) -> UNetConfig:
    """A UNet of `UNETS` for the latents of a VAE of `VAES`."""
    channels = VAES[vae].latent_channels
    return dataclasses.replace(UNETS[unet], in_channels=channels, out_channels=channels)


def system_speed(name: str, side: int = 512, rounds: int = 3) -> SystemSpeed:
    """Times one step of restoration with random weights, in the dtypes of `Upscaler`.

    Args:
      name: key of `SYSTEMS`.
      side: of the square image, px, a multiple of 64.
      rounds: how often, after one that is not timed.

    Raises:
      UserError: there is no such system, or memory does not suffice.
    """
    if name not in SYSTEMS:
        raise UserError(f"`measure` {name} is not one of {', '.join(SYSTEMS)}.")
    vae_name, unet_name, _ = SYSTEMS[name]
    dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    vae = init_network("vae", VAES[vae_name], seed=0)
    unet = init_network("unet", system_unet(vae_name, unet_name), seed=0, dtype=dtype)
    params = vae.params, jax.tree.map(lambda leaf: leaf.astype(dtype), unet.params)
    width = unet.config.cross_attention_dim
    rng = np.random.default_rng(0)
    inputs = (
        jnp.asarray(rng.uniform(-1, 1, (1, side, side, 3)), jnp.float32),
        jnp.asarray(rng.standard_normal((1, _TEXT_TOKENS, width)), dtype),
    )
    lowered = jax.jit(functools.partial(_step, vae, unet)).lower(*params, *inputs)
    what = f"{name} with an image of {side} px"
    step, needed = compile_to_fit(lowered, what, "measure another system")
    seconds = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        jax.block_until_ready(step(*params, *inputs))
        seconds.append(time.perf_counter() - start)
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    return SystemSpeed(statistics.median(seconds[1:]), weights, needed)


def _step(vae: Network, unet: Network, vae_params, unet_params, image, context):
    options = {"scaling_factor": vae.config.scaling_factor, "alpha_bar": _ALPHA_BAR}
    return restore(vae(vae_params), unet(unet_params), image, context, **options)[0]
