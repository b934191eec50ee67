"""The networks that stage 3 trains: the generator's UNet, the critic, parts of the VAE.

Each is a graph with trained and frozen parameters apart, to be merged inside a pure function. The
UNets share Stable Diffusion's frozen parameters wherever they are equal.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from tvt_jax.config import VAE_ENCODER_LORA, LoRAConfig, RestorationTrainConfig, UNetConfig
from tvt_jax.conversion.generator import open_generator, shared_with_sd
from tvt_jax.errors import UserError
from tvt_jax.models.layers import InitKeys
from tvt_jax.models.lora import add_lora
from tvt_jax.models.networks import Network, abstract_network
from tvt_jax.training.stage import Tree, num_parameters, split_trained
from tvt_jax.weights.adapters import Adapters, split_trained_params
from tvt_jax.weights.model_folder import open_network
from tvt_jax.weights.names import check_names_and_shapes, torch_tensors
from tvt_jax.weights.tensor_files import Tensors


@dataclasses.dataclass(frozen=True)
class Generator:
    """The generator's UNet with its adapters: everything but its weights.

    Attributes:
      config: of the UNet.
      graph: for `nnx.merge(graph, trained, frozen)`.
      shared: path of every frozen weight that is Stable Diffusion's -> its path in that UNet.
      names: of the trained parameters.
      tensors: its state dict before training.
      lora: of its adapters.
    """

    config: UNetConfig
    graph: nnx.GraphDef
    shared: Mapping[tuple, tuple]
    names: tuple[str, ...]
    tensors: Tensors
    lora: LoRAConfig

    def shares(self, base: Network, own: Tree) -> str:
        """A note on how many frozen weights are Stable Diffusion's; `own` are the others."""
        whole, own = num_parameters(base.params), num_parameters(own)
        flat = dict(nnx.to_flat_state(base.params))
        read = sum(flat[path].size for path in self.shared.values())
        text = f"generator: {read:,} frozen parameters are shared with Stable Diffusion's UNet"
        if own:
            text += f"; {own:,} differ from them and are held besides, {own / whole:.0%} of a UNet"
        return f"{text}."

    def trained_tensors(self, trained: Tree) -> tuple[Tensors, Adapters]:
        """(state dict with the parameters trained in full, adapters)."""
        table = torch_tensors(abstract_network("unet", self.config))
        full, adapters = split_trained_params(trained, table, self.lora)
        return self.tensors.updated(full), adapters


def make_generator(
    base: Network, folder: Path, latent_channels: int, config: RestorationTrainConfig
) -> tuple[Generator, Tree, Tree]:
    """Makes the generator's UNet from Stable Diffusion's, or reads it from `config.unet`.

    Args:
      base: Stable Diffusion's UNet. folder: where it was read from.
      latent_channels: of the VAE.
      config: of the run.

    Returns: (the generator; its trained parameters, float32: adapters and parts trained in full;
      frozen weights that Stable Diffusion's UNet does not have).
    Raises:
      UserError: `config.unet` does not fit, or `config.trained` names parts that it does not have.
    """
    sd_config, sd_tensors = open_network(folder, "unet")
    settings, tensors = open_generator(
        sd_config, sd_tensors, config.generator, latent_channels, config.unet
    )
    model = abstract_network("unet", settings, dtype=base.dtype, remat=config.remat)
    table = torch_tensors(model)
    check_names_and_shapes(
        {t.name: t.shape for t in table.values()},
        {name: tensors.shape(name) for name in tensors},
        tensors.source,
    )
    lora = LoRAConfig(config.lora_rank)
    if lora.rank:
        add_lora(model, lora, InitKeys(config.seed))
    graph, trained, frozen, names = split_trained(model, config.trained)
    levels = len(settings.block_out_channels) - len(sd_config.block_out_channels)
    shared_names = shared_with_sd(tensors, sd_tensors, levels)
    sd_paths = {t.name: path for path, t in torch_tensors(base(base.params)).items()}
    shared = {
        path: sd_paths[shared_names[table[path].name]]
        for path, _ in nnx.to_flat_state(frozen)
        if table[path].name in shared_names
    }

    def read(path: tuple, dtype: Any) -> np.ndarray:
        return np.asarray(table[path].to_flax(tensors[table[path].name]), dtype)

    def state(flat: dict) -> Tree:
        return nnx.as_pure(nnx.from_flat_state(flat))

    # Adapters are initialised already.
    values = {p: read(p, np.float32) if p in table else x for p, x in nnx.to_flat_state(trained)}
    own = {p: read(p, base.dtype) for p, _ in nnx.to_flat_state(frozen) if p not in shared}
    names = tuple(f"unet.{name}" for name in names)
    generator = Generator(settings, graph, shared, names, tensors, lora)
    return generator, state(values), state(own)


def make_critic(base: Network, config: RestorationTrainConfig) -> tuple[nnx.GraphDef, Tree, tuple]:
    """Adds the critic's adapters to Stable Diffusion's UNet.

    Returns: (graph for `nnx.merge(graph, adapters, Stable Diffusion's weights)`, adapters, names).
    Raises:
      UserError: `config.critic_lora_parts` names no part of the UNet.
    """
    model = abstract_network("unet", base.config, dtype=base.dtype, remat=config.remat)
    lora = LoRAConfig(config.critic_lora_rank, parts=config.critic_lora_parts)
    if not add_lora(model, lora, InitKeys(config.seed + 1)):
        raise UserError(
            f"`config.critic_lora_parts={config.critic_lora_parts}` names no part of the critic."
        )
    graph, adapters, _, names = split_trained(model, ())
    return graph, adapters, names


def make_vae(vae: Network, config: RestorationTrainConfig) -> tuple:
    """Adds adapters to the VAE's encoder, if `config` has any, and separates what is trained.

    Returns: (graph for `nnx.merge(graph, trained, frozen)`, trained parameters: adapters, and the
      parts that are trained in full; frozen ones; names of the trained parameters).
    Raises:
      UserError: `config.vae_trained` names parts that the VAE does not have.
    """
    module = vae(vae.params)
    if config.vae_lora_rank:
        add_lora(module, vae_lora(config), InitKeys(config.seed + 2))
    graph, trained, frozen, names = split_trained(module, config.vae_trained, "vae_trained")
    return graph, trained, frozen, tuple(f"vae.{name}" for name in names)


def vae_lora(config: RestorationTrainConfig) -> LoRAConfig:
    """The adapters of the VAE's encoder (ablation S1)."""
    return dataclasses.replace(VAE_ENCODER_LORA, rank=config.vae_lora_rank)


def check_fit(
    config: RestorationTrainConfig, base: Network, vae: Network, text_width: int, timesteps: int
) -> None:
    """Raises UserError where networks and settings do not fit each other."""
    if text_width != base.config.cross_attention_dim:
        raise UserError(
            f"the text embedding in `config.sd={config.sd}` is {text_width} wide, its UNet wants "
            f"{base.config.cross_attention_dim}."
        )
    has, reads = vae.config.latent_channels, base.config.in_channels
    if has != reads and not (config.interpolated_latents and has > reads):
        raise UserError(
            f"the VAE in `config.vae={config.vae}` has {has} latent channels, the UNet in "
            f"`config.sd={config.sd}` reads {reads}. If the VAE's were made by interpolation along "
            "the channels (ablation S3), set `config.interpolated_latents=true`."
        )
    factor = vae.config.downsampling
    config.check_crops(factor)
    if not config.loss.vsd:
        return
    side = config.data.crop // factor
    if side % config.loss.patch:
        raise UserError(
            f"`config.data.crop={config.data.crop}` gives latents of {side} px, which patches of "
            f"`config.loss.patch={config.loss.patch}` do not tile."
        )
    patches = config.data.batch_size // config.accumulate * (side // config.loss.patch) ** 2
    if config.loss.patches_at_once and patches % min(config.loss.patches_at_once, patches):
        raise UserError(
            f"`config.loss.patches_at_once={config.loss.patches_at_once}` does not divide the "
            f"{patches} patches of a batch."
        )
    if config.loss.patches_at_once % jax.device_count():
        raise UserError(
            f"`config.loss.patches_at_once={config.loss.patches_at_once}` is not a multiple of the "
            f"{jax.device_count()} devices."
        )
    if config.loss.max_timestep > timesteps:
        raise UserError(
            f"`config.loss.max_timestep={config.loss.max_timestep}` is beyond the {timesteps} "
            "timesteps of the schedule."
        )
