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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax import nnx

from tvt_jax.config import SchedulerConfig
from tvt_jax.errors import UserError
from tvt_jax.files import atomic_file, read_json, write_json
from tvt_jax.models.networks import KINDS, Network, abstract_network
from tvt_jax.weights.adapters import with_adapters
from tvt_jax.weights.names import params_from_torch, params_to_torch
from tvt_jax.weights.tensor_files import Tensors, open_network_tensors

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


def read_network_config(folder: Path, kind: str) -> Any:
    """Reads `config.json` of `folder` (a network's own folder).

    Raises:
      UserError: it is missing or describes something else.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder} is not a {kind} folder: it has no config.json.")
    return KINDS[kind][0].from_json(read_json(path), str(path))


def open_network(folder: Path, kind: str) -> tuple[Any, Tensors]:
    """Opens a network's folder without reading the weights; adapters beside them are merged.

    Returns: (its configuration, its tensors under the names that the module here has).
    Raises:
      UserError: the folder is incomplete or damaged.
    """
    config = read_network_config(folder, kind)
    tensors = open_network_tensors(folder, _stem(kind))
    if kind == "text_encoder":
        tensors = tensors.renamed(
            lambda name: None
            if (short := name.removeprefix(_TEXT_PREFIX)) == _TEXT_BUFFER
            else short
        )
    if kind == "vae":
        tensors = tensors.renamed(_new_attention_name)
    return config, with_adapters(folder, kind, tensors)


def _stem(kind: str) -> str:
    """Name of the weight file of a kind of network, as diffusers or transformers have it."""
    return "diffusion_pytorch_model" if kind in ("vae", "unet") else "model"


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
    path = folder / f"{_stem(kind)}.safetensors"
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


def write_model_index(model: Path) -> None:
    """Writes `model_index.json`: the classes that PyTorch's libraries have for the subfolders."""
    from tvt_jax import __version__

    values = {"_class_name": "TVTPipeline", "_tvt_jax_version": __version__}
    values |= {name: list(c) for name, c in _CLASSES.items() if (model / name).is_dir()}
    write_json(model / "model_index.json", values)
