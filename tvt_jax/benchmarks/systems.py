"""The paper's systems: their networks at full size."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from tvt_jax.config import UNETS, VAES, UNetConfig
from tvt_jax.errors import UserError
from tvt_jax.inference.loading import vae_dtype
from tvt_jax.models.networks import Network, init_network

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


def system_unet(vae: str, unet: str) -> UNetConfig:
    """A UNet of `UNETS` for the latents of a VAE of `VAES`."""
    channels = VAES[vae].latent_channels
    return dataclasses.replace(UNETS[unet], in_channels=channels, out_channels=channels)


def system_networks(name: str, dtype: str) -> tuple[Network, Network]:
    """VAE and UNet of a system with random weights, as inference has them in this dtype.

    Raises:
      UserError: there is no such system.
    """
    if name not in SYSTEMS:
        raise UserError(f"`measure` {name} is not one of {', '.join(SYSTEMS)}.")
    vae, unet, _ = SYSTEMS[name]
    return (
        init_network("vae", VAES[vae], seed=0, dtype=jnp.dtype(vae_dtype(dtype))),
        random_network("unet", system_unet(vae, unet), dtype),
    )


def random_network(kind: str, config: Any, dtype: Any) -> Network:
    """A network with random weights in the dtype of the computation, as inference loads it."""
    network = init_network(kind, config, seed=0, dtype=dtype)
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), network.params)
    return dataclasses.replace(network, params=params)
