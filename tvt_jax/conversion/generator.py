"""The generator's initial UNet, and which of its weights are Stable Diffusion's own.

Source: paper section 3.3; for the ablations table 7.
"""

import re
from pathlib import Path

import numpy as np

from tvt_jax.config import UNetConfig
from tvt_jax.conversion.latent_channels import with_latent_channels
from tvt_jax.conversion.pruning import pruned_config, pruned_tensors
from tvt_jax.conversion.replication import replicated_config, replicated_tensors
from tvt_jax.errors import UserError
from tvt_jax.weights.model_folder import network_folder, open_network
from tvt_jax.weights.tensor_files import Tensors


def open_generator(
    sd: UNetConfig, tensors: Tensors, how: str, latent_channels: int, folder: str = ""
) -> tuple[UNetConfig, Tensors]:
    """Derives the generator's UNet from Stable Diffusion's, or reads it.

    Args:
      sd, tensors: Stable Diffusion's UNet.
      how: one of `config.GENERATORS`.
      latent_channels: of the VAE that it works with.
      folder: of a UNet to read instead, its own or that of the model around it; must be of the
        architecture that `how` makes.

    Returns: its configuration and its state dict.
    Raises:
      UserError: the folder is incomplete, or of another architecture, or `sd` cannot be pruned.
    """
    if how == "replicated":
        config, made = replicated_config(sd), replicated_tensors(sd, tensors)
    elif how == "pruned":
        try:
            config, made = pruned_config(sd), pruned_tensors(sd, tensors)
        except ValueError as error:
            raise UserError(f"{tensors.source} cannot be pruned: {error}.") from error
    else:
        config, made = sd, tensors
    if latent_channels != config.in_channels:
        config, made = with_latent_channels(config, made, latent_channels)
    if not folder:
        return config, made
    found, made = open_network(network_folder(Path(folder), "unet"), "unet")
    if found != config:
        raise UserError(
            f"{folder} is not the UNet that generator={how} asks for: its "
            f"levels are {found.block_out_channels} wide instead of {config.block_out_channels}, "
            "or another setting of its config.json differs."
        )
    return config, made


def shared_with_sd(generator: Tensors, sd: Tensors, added_levels: int) -> dict[str, str]:
    """Finds the weights of a generator that are Stable Diffusion's own.

    Args:
      generator, sd: the two state dicts.
      added_levels: levels that the generator has in front of Stable Diffusion's.

    Returns: name in `generator` -> name in `sd`, where the values are the same to the last bit.
    """
    shared = {}
    for name in generator:
        counterpart = _counterpart(name, added_levels)
        if (
            counterpart in sd
            and sd.shape(counterpart) == generator.shape(name)
            and np.array_equal(generator[name], sd[counterpart])
        ):
            shared[name] = counterpart
    return shared


def _counterpart(name: str, added_levels: int) -> str:
    """The same layer in Stable Diffusion's UNet; the added levels come first on the way down."""
    return re.sub(r"^down_blocks\.(\d+)", lambda m: f"down_blocks.{int(m[1]) - added_levels}", name)
