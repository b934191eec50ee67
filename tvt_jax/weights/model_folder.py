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
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from tvt_jax.config import SchedulerConfig, UNetConfig, VAEConfig
from tvt_jax.errors import UserError
from tvt_jax.files import read_json, write_json
from tvt_jax.models.networks import KINDS, Network, abstract_network
from tvt_jax.weights.adapters import Adapters, load_adapters, merged_tensors, save_adapters
from tvt_jax.weights.names import params_from_torch, params_to_torch
from tvt_jax.weights.prompt_embeds import FILE as PROMPT_EMBEDS
from tvt_jax.weights.tensor_files import Tensors, open_network_tensors, save_tensors

# transformers before version 5 put the whole text encoder under this prefix. SD 2.1's files have it
# and later versions read it, so it is written.
_TEXT_PREFIX = "text_model."
# Names of a VAE's attention projections in diffusers before 0.18, and in SD 2.1's files.
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
# A buffer in old files that only holds 0, 1, 2 ...
_TEXT_BUFFER = "embeddings.position_ids"
# Settings that may differ from the folder's because the names of the tensors show the difference:
# reinitialised parts can add tensors, such as a decoder's skip connections.
_SEEN_IN_NAMES = ("skip_connections",)
# Copied into a trained model from its Stable Diffusion folder: the schedule, and a text encoder
# with its tokenizer or the stored embedding in their place.
_TEXT_AND_SCHEDULE = ("scheduler", "text_encoder", "tokenizer", PROMPT_EMBEDS)
# Library and class of each subfolder in PyTorch.
_CLASSES = {
    "scheduler": ("diffusers", "DDPMScheduler"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
    "unet": ("diffusers", "UNet2DConditionModel"),
    "vae": ("diffusers", "AutoencoderKL"),
}


def check_is_model_folder(model: Path) -> None:
    """Raises UserError unless `model` is a complete model folder."""
    if not (model / "model_index.json").is_file():
        raise UserError(
            f"`model` {model} is not a model folder: it has no model_index.json. "
            "Make one with `python -m tvt_jax.convert official`, or train one."
        )


def read_network_config(folder: Path, kind: str) -> Any:
    """Reads `config.json` of `folder` (a network's own folder).

    Raises:
      UserError: it is missing or describes something else.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder} is not a {kind} folder: it has no config.json.")
    return KINDS[kind][0].from_json(read_json(path), str(path))


def open_network(folder: Path, kind: str, lora_scale: float = 1.0) -> tuple[Any, Tensors]:
    """Opens a network's folder without reading the weights; adapters beside them are merged.

    Args:
      folder: the network's own folder.
      kind: a key of `KINDS`.
      lora_scale: strength of the adapters: 0 leaves them out, 1 is as they were trained.

    Returns: (its configuration, its tensors under the names of this project's module).
    Raises:
      UserError: the folder is incomplete or damaged, or has no adapters for another strength.
    """
    config, tensors, adapters = open_network_and_adapters(folder, kind)
    if not 0 <= lora_scale < float("inf"):
        raise UserError(f"`lora_scale` {lora_scale} must be 0 or more, and finite.")
    if not adapters.layers:
        if lora_scale != 1:
            raise UserError(f"`lora_scale` has no effect: {folder} keeps no adapters apart.")
        return config, tensors
    return config, merged_tensors(tensors, adapters.scaled(lora_scale))


def open_network_and_adapters(folder: Path, kind: str) -> tuple[Any, Tensors, Adapters]:
    """As `open_network`, with the adapters returned separately."""
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
    return config, tensors, load_adapters(folder, kind, tensors)


def _stem(kind: str) -> str:
    """Stem of the weight file of a kind of network, in diffusers or transformers."""
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


def load_network(
    folder: Path,
    kind: str,
    dtype: Any,
    param_dtype: Any,
    lora_scale: float = 1.0,
    **options: Any,
) -> Network:
    """Loads a network of a model folder.

    Args:
      folder: the network's own folder, for example `model/unet`.
      kind: a key of `KINDS`.
      dtype: dtype of the computation.
      param_dtype: dtype of the weights in memory.
      lora_scale: as of `open_network`.
      options: further arguments of the module (`remat`).

    Raises:
      UserError: files are missing or damaged, or do not fit the configuration.
    """
    config, tensors = open_network(folder, kind, lora_scale)
    model = abstract_network(kind, config, dtype=dtype, param_dtype=param_dtype, **options)
    params = params_from_torch(model, tensors, param_dtype, str(folder))
    return Network(kind, config, jnp.dtype(dtype), nnx.graphdef(model), params)


def load_into(network: Network, folder: Path, keep: tuple[str, ...]) -> Network:
    """Loads the weights of a folder into a network, except for some parts.

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
        raise UserError(f"`config.fresh`: this network has no {', '.join(unknown)}.")
    params = params_from_torch(model, tensors.updated(kept), jnp.float32, str(folder))
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
    prefix = _TEXT_PREFIX if kind == "text_encoder" else ""
    arrays = {prefix + name: np.asarray(tensors[name], jnp.dtype(dtype)) for name in tensors}
    save_tensors(folder / f"{_stem(kind)}.safetensors", arrays)
    write_json(folder / "config.json", config.to_json())


def read_scheduler_config(model: Path) -> SchedulerConfig:
    """Reads the noise schedule of a model folder.

    Raises:
      UserError: it is missing or not SD 2.1-base's kind.
    """
    path = model / "scheduler" / "scheduler_config.json"
    return SchedulerConfig.from_json(read_json(path), str(path))


def write_scheduler_config(model: Path, config: SchedulerConfig) -> None:
    """Writes the noise schedule of a model folder."""
    write_json(model / "scheduler" / "scheduler_config.json", config.to_json())


def copy_parts(source: Path, model: Path, parts: Iterable[str] = _TEXT_AND_SCHEDULE) -> None:
    """Copies the given parts of a model folder, where present, into another.

    Raises:
      UserError: the disk is full or the folder cannot be written.
    """
    try:
        model.mkdir(parents=True, exist_ok=True)
        for part in parts:
            if (source / part).is_dir():
                shutil.copytree(source / part, model / part, dirs_exist_ok=True)
            elif (source / part).is_file():
                shutil.copyfile(source / part, model / part)
    except (OSError, shutil.Error) as error:
        raise UserError(f"cannot write {model}: {error}.") from error


def write_trained_model(
    model: Path,
    sd: Path,
    unet: tuple[UNetConfig, Tensors, Adapters],
    vae: tuple[VAEConfig, Tensors, Adapters],
    merge: bool,
) -> None:
    """Writes what stage 3 trained as a model folder, float32.

    Args:
      model: the new folder.
      sd: Stable Diffusion folder that text and noise schedule come from.
      unet, vae: configuration, state dict and adapters of each.
      merge: merge the UNet's adapters into its weights; else they stay in a file beside them. The
        VAE's are merged in any case.

    Raises:
      UserError: the disk is full or the folder cannot be written.
    """
    copy_parts(sd, model)
    for kind, (config, tensors, adapters) in (("vae", vae), ("unet", unet)):
        if merge or kind == "vae":
            tensors = merged_tensors(tensors, adapters)
        elif adapters.layers:
            save_adapters(model / kind, kind, adapters)
        save_network(model / kind, kind, config, tensors, "float32")
    write_model_index(model)


def write_model_index(model: Path) -> None:
    """Writes `model_index.json`: the classes that PyTorch's libraries have for the subfolders."""
    from tvt_jax import __version__

    values = {"_class_name": "TVTPipeline", "_tvt_jax_version": __version__}
    values |= {name: list(c) for name, c in _CLASSES.items() if (model / name).is_dir()}
    write_json(model / "model_index.json", values)
