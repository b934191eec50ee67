"""The kinds of networks, and a network with structure and weights apart."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import nnx

from tvt_jax.config import (
    DiscriminatorConfig,
    LPIPSConfig,
    TaggerConfig,
    TextEncoderConfig,
    UNetConfig,
    VAEConfig,
)
from tvt_jax.models.discriminator import NLayerDiscriminator
from tvt_jax.models.layers import InitKeys
from tvt_jax.models.lpips import LPIPS
from tvt_jax.models.tagger import RAM
from tvt_jax.models.text_encoder import CLIPTextModel
from tvt_jax.models.unet import UNet2DConditionModel
from tvt_jax.models.vae import AutoencoderKL

# Configuration and module of each kind of network; the first four are parts of a model folder.
KINDS = {
    "vae": (VAEConfig, AutoencoderKL),
    "unet": (UNetConfig, UNet2DConditionModel),
    "text_encoder": (TextEncoderConfig, CLIPTextModel),
    "tagger": (TaggerConfig, RAM),
    "discriminator": (DiscriminatorConfig, NLayerDiscriminator),
    "lpips": (LPIPSConfig, LPIPS),
}


@dataclasses.dataclass(frozen=True)
class Network:
    """A network's structure and weights, kept apart so that functions of both can be compiled.

    Attributes:
      kind: a key of `KINDS`.
      config: its configuration.
      dtype: of the computation.
      graph: its structure, for `nnx.merge(graph, params)`.
      params: pure `nnx.State` of arrays.
    """

    kind: str
    config: Any
    dtype: Any
    graph: nnx.GraphDef
    params: nnx.State

    def __call__(self, params: nnx.State) -> nnx.Module:
        """Merges parameters into the structure; free under jit."""
        return nnx.merge(self.graph, params)

    def with_dtype(self, dtype: Any) -> "Network":
        """The same weights (not copied), computing in another dtype."""
        graph = nnx.graphdef(abstract_network(self.kind, self.config, dtype=dtype))
        return dataclasses.replace(self, dtype=jnp.dtype(dtype), graph=graph)


def abstract_network(kind: str, config: Any, **options: Any) -> nnx.Module:
    """Builds a module with shapes only.

    Args:
      kind: a key of `KINDS`.
      config: the network's configuration.
      options: `dtype`, `param_dtype`, `remat` of the module.
    """
    _, module = KINDS[kind]
    return nnx.eval_shape(lambda: module(config, rngs=InitKeys(None), **options))


def init_network(kind: str, config: Any, seed: int, **options: Any) -> Network:
    """Builds a network with random weights, float32.

    Args:
      kind: a key of `KINDS`.
      config: the network's configuration.
      seed: of the initialisation.
      options: `dtype`, `remat` of the module.
    """
    module = KINDS[kind][1](config, rngs=InitKeys(seed), **options)
    graph, params = nnx.split(module)
    dtype = jnp.dtype(options.get("dtype", jnp.float32))
    return Network(kind, config, dtype, graph, nnx.as_pure(params))
