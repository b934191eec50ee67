"""Small random networks that see 50 px around them, for tests of tiles."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx

from tvt_jax.config import SchedulerConfig, UNetConfig, VAEConfig
from tvt_jax.models.networks import Network, abstract_network, init_network
from tvt_jax.weights.model_folder import save_network, write_model_index, write_scheduler_config
from tvt_jax.weights.names import params_to_torch
from tvt_jax.weights.prompt_embeds import PromptEmbeds, save_prompt_embeds

CONTEXT = 8  # width of the prompt's embedding


def local_networks() -> tuple[Network, Network]:
    """(VAE, UNet)."""
    vae = init_network(
        "vae",
        VAEConfig(
            block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, mid_block=False
        ),
        0,
    )
    unet = init_network(
        "unet",
        UNetConfig(
            block_out_channels=(8,),
            down_block_types=("DownBlock2D",),
            up_block_types=("UpBlock2D",),
            attention_head_dim=(2,),
            cross_attention_dim=CONTEXT,
            layers_per_block=1,
            norm_num_groups=4,
        ),
        1,
    )
    # The middle's attention sees a whole tile or a whole image, which no margin makes equal.
    flat = {
        path: jnp.zeros_like(leaf) if "proj_out" in path else leaf
        for path, leaf in nnx.to_flat_state(unet.params)
    }
    return vae, dataclasses.replace(unet, params=nnx.as_pure(nnx.from_flat_state(flat)))


def write_local_model(folder: Path) -> None:
    """Writes them as a model folder."""
    for kind, network in zip(("vae", "unet"), local_networks(), strict=True):
        tensors = params_to_torch(abstract_network(kind, network.config), network.params)
        save_network(folder / kind, kind, network.config, tensors, "float32")
    embedding = np.zeros((1, 3, CONTEXT), np.float32)
    save_prompt_embeds(folder, PromptEmbeds(embedding, embedding))
    write_scheduler_config(folder, SchedulerConfig())
    write_model_index(folder)
