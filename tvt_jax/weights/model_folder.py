"""A model on disk: the diffusers folder layout, with safetensors.

model_index.json
vae/           config.json  diffusion_pytorch_model.safetensors
unet/          config.json  diffusion_pytorch_model.safetensors, and perhaps adapters
               (`weights/adapters.py`)
text_encoder/  config.json  model.safetensors
tokenizer/     as transformers writes it; both, or in their place prompt_embeds.safetensors
scheduler/     scheduler_config.json
tagger/        config.json  model.safetensors, and RAM's two lists (optional)
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax import nnx

from tvt_jax.atomic_write import atomic_file
from tvt_jax.config import (
    DiscriminatorConfig,
    LPIPSConfig,
    SchedulerConfig,
    TaggerConfig,
    TextEncoderConfig,
    UNetConfig,
    VAEConfig,
)
from tvt_jax.errors import UserError
from tvt_jax.models.discriminator import NLayerDiscriminator
from tvt_jax.models.layers import InitKeys
from tvt_jax.models.lpips import LPIPS
from tvt_jax.models.tagger import RAM
from tvt_jax.models.text_encoder import CLIPTextModel
from tvt_jax.models.unet import UNet2DConditionModel
from tvt_jax.models.vae import AutoencoderKL
from tvt_jax.weights.adapters import with_adapters
from tvt_jax.weights.names import params_from_torch, params_to_torch
from tvt_jax.weights.tensor_files import Tensors, open_network_tensors, read_json

# transformers before version 5 put everything of the text encoder under this prefix, SD 2.1's
# files have it, and later versions read it, so it is what we write.
_TEXT_PREFIX = "text_model."
# What diffusers before 0.18 called the projections of a VAE's attention; SD 2.1's files have these.
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
# A buffer that old files carry; positions are simply 0, 1, 2 ...
_TEXT_BUFFER = "embeddings.position_ids"
# Settings whose difference shows in the names of the tensors; parts that are to start anew may make
# it, as where a decoder gets skip connections.
_SEEN_IN_NAMES = ("skip_connections",)
# Library and class of each subfolder in PyTorch.
_CLASSES = {
    "scheduler": ("diffusers", "DDPMScheduler"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
    "unet": ("diffusers", "UNet2DConditionModel"),
    "vae": ("diffusers", "AutoencoderKL"),
}


@dataclasses.dataclass(frozen=True)
class NetworkKind:
    """What a subfolder holds: its configuration class, its module, the stem of its weight file."""

    config: type
    module: type[nnx.Module]
    stem: str


KINDS = {
    "vae": NetworkKind(VAEConfig, AutoencoderKL, "diffusion_pytorch_model"),
    "unet": NetworkKind(UNetConfig, UNet2DConditionModel, "diffusion_pytorch_model"),
    "text_encoder": NetworkKind(TextEncoderConfig, CLIPTextModel, "model"),
    "tagger": NetworkKind(TaggerConfig, RAM, "model"),
    # Of training and evaluation; not part of a model folder.
    "discriminator": NetworkKind(DiscriminatorConfig, NLayerDiscriminator, "model"),
    "lpips": NetworkKind(LPIPSConfig, LPIPS, "model"),
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
        """Puts parameters into the structure; free under jit."""
        return nnx.merge(self.graph, params)

    def with_dtype(self, dtype: Any) -> "Network":
        """The same weights (not copied), computing in another dtype."""
        graph = nnx.graphdef(abstract_network(self.kind, self.config, dtype=dtype))
        return dataclasses.replace(self, dtype=jnp.dtype(dtype), graph=graph)


def abstract_network(kind: str, config: Any, **options: Any) -> nnx.Module:
    """Builds the module of a subfolder's kind with shapes only.

    Args:
      kind: a key of `KINDS`.
      config: the network's configuration.
      options: `dtype`, `param_dtype`, `remat` of the module.
    """
    module = KINDS[kind].module
    return nnx.eval_shape(lambda: module(config, rngs=InitKeys(None), **options))


def read_network_config(folder: Path, kind: str) -> Any:
    """Reads `config.json` of `folder` (a network's own folder).

    Raises:
      UserError: it is missing or describes something else.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder} is not a {kind} folder: it has no config.json.")
    return KINDS[kind].config.from_json(read_json(path), str(path))


def open_network(folder: Path, kind: str) -> tuple[Any, Tensors]:
    """Opens a network's folder without reading the weights; adapters beside them are merged.

    Returns: (its configuration, its tensors under the names that the module here has).
    Raises:
      UserError: the folder is incomplete or damaged.
    """
    config = read_network_config(folder, kind)
    tensors = open_network_tensors(folder, KINDS[kind].stem)
    if kind == "text_encoder":
        tensors = tensors.renamed(
            lambda name: None
            if (short := name.removeprefix(_TEXT_PREFIX)) == _TEXT_BUFFER
            else short
        )
    if kind == "vae":
        tensors = tensors.renamed(_new_attention_name)
    return config, with_adapters(folder, kind, tensors)


def network_folder(folder: Path, kind: str) -> Path:
    """A network's own folder, given that or the model folder around it."""
    return folder / kind if (folder / kind).is_dir() else folder


def _new_attention_name(name: str) -> str:
    layer, _, leaf = name.rpartition(".")
    parent, _, last = layer.rpartition(".")
    if last not in _OLD_ATTENTION or ".attentions." not in layer:
        return name
    return f"{parent}.{_OLD_ATTENTION[last]}.{leaf}"


def load_network(folder: Path, kind: str, dtype: Any, param_dtype: Any, **options: Any) -> Network:
    """Loads a network of a model folder.

    Args:
      folder: the network's own folder, for example `model/unet`.
      kind: a key of `KINDS`.
      dtype: dtype of the computation.
      param_dtype: dtype of the weights in memory.
      options: further arguments of the module (`remat`).

    Raises:
      UserError: files are missing or damaged, or do not fit the configuration.
    """
    config, tensors = open_network(folder, kind)
    model = abstract_network(kind, config, dtype=dtype, param_dtype=param_dtype, **options)
    params = params_from_torch(model, tensors, param_dtype, str(folder))
    return Network(kind, config, jnp.dtype(dtype), nnx.graphdef(model), params)


def init_network(kind: str, config: Any, seed: int, **options: Any) -> Network:
    """Builds a network with random weights, float32.

    Args:
      kind: a key of `KINDS`.
      config: the network's configuration.
      seed: of the initialisation.
      options: `dtype`, `remat` of the module.
    """
    module = KINDS[kind].module(config, rngs=InitKeys(seed), **options)
    graph, params = nnx.split(module)
    dtype = jnp.dtype(options.get("dtype", jnp.float32))
    return Network(kind, config, dtype, graph, nnx.as_pure(params))


def load_into(network: Network, folder: Path, keep: tuple[str, ...]) -> Network:
    """Gives a network the weights of a folder, except for some parts.

    Args:
      network: with its own weights.
      folder: the network's own folder, or the model folder around it.
      keep: dotted prefixes of the parts that keep the network's own weights; the folder may lack
        them.

    Raises:
      UserError: the folder's configuration differs, its weights do not fit, or a part in `keep`
        does not exist.
    """
    folder = network_folder(folder, network.kind)
    config, tensors = open_network(folder, network.kind)
    differing = [
        f"{field.name} {getattr(config, field.name)} instead of "
        f"{getattr(network.config, field.name)}"
        for field in dataclasses.fields(config)
        if getattr(config, field.name) != getattr(network.config, field.name)
        and field.name not in _SEEN_IN_NAMES
    ]
    if differing:
        raise UserError(f"{folder} is another architecture: {'; '.join(differing)}.")
    model = abstract_network(network.kind, network.config, dtype=network.dtype)
    kept = {
        name: array
        for name, array in params_to_torch(model, network.params).items()
        if name.startswith(tuple(f"{part}." for part in keep))
    }
    unknown = [part for part in keep if not any(name.startswith(f"{part}.") for name in kept)]
    if unknown:
        raise UserError(f"--config.fresh: this network has no {', '.join(unknown)}.")
    both = Tensors(
        str(folder),
        {n: tensors.shape(n) for n in tensors} | {n: a.shape for n, a in kept.items()},
        lambda name: kept[name] if name in kept else tensors[name],
    )
    params = params_from_torch(model, both, jnp.float32, str(folder))
    return dataclasses.replace(network, params=params)


def save_network(
    folder: Path, kind: str, config: Any, tensors: Mapping[str, np.ndarray], dtype: Any
) -> None:
    """Writes `config.json` and the weights of one network.

    Args:
      folder: the network's own folder; made if needed.
      tensors: PyTorch's names and layouts; may be lazy, each is read once.
      dtype: floating-point dtype of the file.

    Raises:
      UserError: the disk is full or the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    prefix = _TEXT_PREFIX if kind == "text_encoder" else ""
    arrays = {
        prefix + name: np.ascontiguousarray(np.asarray(tensors[name], dtype=jnp.dtype(dtype)))
        for name in tensors
    }
    path = folder / f"{KINDS[kind].stem}.safetensors"
    with atomic_file(path) as temporary:
        try:
            safetensors.numpy.save_file(arrays, temporary, metadata={"format": "pt"})
        except safetensors.SafetensorError as error:
            raise UserError(f"cannot write {path}: {error}.") from error
        write_json(folder / "config.json", config.to_json())
        # safetensors makes files that nobody but their owner can read.
        temporary.chmod((folder / "config.json").stat().st_mode)


def read_scheduler_config(model: Path) -> SchedulerConfig:
    """Reads the noise schedule of a model folder.

    Raises:
      UserError: it is missing or not SD 2.1-base's kind.
    """
    path = model / "scheduler" / "scheduler_config.json"
    return SchedulerConfig.from_json(read_json(path), str(path))


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes a JSON object with sorted keys and a final newline."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write_model_index(model: Path) -> None:
    """Writes `model_index.json`: the classes that PyTorch's libraries have for the subfolders."""
    from tvt_jax import __version__

    values = {"_class_name": "TVTPipeline", "_tvt_jax_version": __version__}
    values |= {name: list(c) for name, c in _CLASSES.items() if (model / name).is_dir()}
    write_json(model / "model_index.json", values)
