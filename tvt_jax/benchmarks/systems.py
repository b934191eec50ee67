"""The paper's systems: their networks at full size."""

import dataclasses
from typing import Any

import jax

from tvt_jax.config import UNETS, VAES, UNetConfig
from tvt_jax.errors import UserError
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


def system_networks(name: str, dtype: Any, vae_dtype: Any) -> tuple[Network, Network]:
    """VAE and UNet of a system with random weights, in the dtypes of the computation.

    Raises:
      UserError: there is no such system.
    """
    if name not in SYSTEMS:
        raise UserError(f"`measure` {name} is not one of {', '.join(SYSTEMS)}.")
    vae, unet, _ = SYSTEMS[name]
    chosen = (("vae", VAES[vae], vae_dtype), ("unet", system_unet(vae, unet), dtype))
    return tuple(random_network(*arguments) for arguments in chosen)


def random_network(kind: str, config: Any, dtype: Any) -> Network:
    """A network with random weights in the dtype of the computation, as inference loads it."""
    network = init_network(kind, config, seed=0, dtype=dtype)
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), network.params)
    return dataclasses.replace(network, params=params)
