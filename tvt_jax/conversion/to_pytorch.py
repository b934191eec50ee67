"""A model folder in the layout of the authors' PyTorch release, and as diffusers folders.

`conversion/official.py` reads back what is written here, and the release's own code runs it.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tvt_jax.config import LoRAConfig, VAEConfig
from tvt_jax.conversion.official import TRAINED_IN_FULL
from tvt_jax.conversion.release_files import ADAPTERS, VAE_PREFIX
from tvt_jax.conversion.tagger import no_dape_adapters
from tvt_jax.errors import UserError
from tvt_jax.files import atomic_folder, write_json
from tvt_jax.weights.adapters import Adapters
from tvt_jax.weights.model_folder import (
    check_is_model_folder,
    copy_parts,
    open_network,
    open_network_and_adapters,
    save_network,
)
from tvt_jax.weights.tag_lists import TAG_LIST, THRESHOLDS
from tvt_jax.weights.tensor_files import Tensors, numpy_as_torch

_SD = "stable-diffusion-2-1-base"
_READ_BACK = "python -m tvt_jax.convert official --output MODEL --sd {sd} --vae vae.ckpt"
_README = """\
A tvt_jax model for PyTorch, in the layout of the TVT release.

{parts}

Back to a model folder, from here:

    {command}

VAE-D4 has no middle section, which diffusers cannot leave out. To load it:

    import json, torch
    from diffusers import AutoencoderKL

    class NoMidBlock(torch.nn.Module):
        def forward(self, sample, *_):
            return sample

    vae = AutoencoderKL.from_config(json.load(open("vae_config.json")))
    vae.encoder.mid_block = vae.decoder.mid_block = NoMidBlock()
    state = torch.load("vae.ckpt", weights_only=True)["state_dict"]
    vae.load_state_dict({{name.removeprefix("{prefix}"): t for name, t in state.items()}})
"""


def convert_to_pytorch(model: Path, output: Path, report: Callable[[str], None] = print) -> None:
    """Writes a model folder for PyTorch, each tensor with its values and dtype.

    Args:
      model: the model folder.
      output: the new folder; must not exist, or be empty.
      report: called with one line for each part.

    Raises:
      UserError: the model is incomplete or damaged, PyTorch is not installed, or the folder cannot
        be written; nothing is left at `output`.
    """
    check_is_model_folder(model)
    parts, command = {}, _READ_BACK.format(sd=_SD)
    with atomic_folder(output) as folder:
        vae_config, vae = open_network(model / "vae", "vae")
        state = {f"{VAE_PREFIX}{name}": vae[name] for name in vae}
        _save_pickle(folder / "vae.ckpt", {"state_dict": _torch(state)})
        write_json(folder / "vae_config.json", vae_config.to_json())
        parts["vae.ckpt"] = "the VAE; its configuration is vae_config.json"
        command += " --vae-config vae_config.json"
        if _diffusers_has(vae_config):
            save_network(folder / "vae", "vae", vae_config, vae, _dtype(vae))
            parts["vae/"] = "the same for diffusers' AutoencoderKL"

        config, unet, adapters = open_network_and_adapters(model / "unet", "unet")
        save_network(folder / "TVTUNet" / "unet", "unet", config, unet, _dtype(unet))
        parts["TVTUNet/unet/"] = "the UNet, for diffusers' UNet2DConditionModel"
        command += " --unet TVTUNet"
        if adapters.layers:
            _save_pickle(folder / "model_TVT.pkl", _trained_parts(unet, adapters))
            parts["TVTUNet/unet/"] += ", without its adapters"
            parts["model_TVT.pkl"] = "the UNet's adapters, and the layers that were trained in full"
            command += " --tvt model_TVT.pkl"

        copy_parts(model, folder / _SD)
        parts[f"{_SD}/"] = "text encoder and tokenizer or the stored embedding, noise schedule"
        if (model / "tagger").is_dir():
            config, tagger = open_network(model / "tagger", "tagger")
            ram = {name: tagger[name] for name in tagger}
            _save_pickle(folder / "ram_swin_large_14m.pth", {"model": _torch(ram)})
            copy_parts(model / "tagger", folder / "ram_data", (TAG_LIST, THRESHOLDS))
            parts["ram_swin_large_14m.pth"] = "the tagger; its lists are in ram_data/"
            command += " --ram ram_swin_large_14m.pth --ram-data ram_data"
            if config.dape:
                _save_pickle(folder / "DAPE.pth", _torch(no_dape_adapters(tagger)))
                parts["DAPE.pth"] = "adapters of zero: DAPE's are merged into the tagger"
                command += " --dape DAPE.pth"
        lines = "\n".join(f"{name:<28}{what}" for name, what in parts.items())
        text = _README.format(parts=lines, command=command, prefix=VAE_PREFIX)
        (folder / "README.txt").write_text(text, encoding="utf-8")
    for name, what in parts.items():
        report(f"{name}: {what}")


def _diffusers_has(config: VAEConfig) -> bool:
    return config.mid_block and not config.skip_connections


def _trained_parts(unet: Tensors, adapters: Adapters) -> dict[str, Any]:
    """The content of `model_TVT.pkl`: peft's names, each layer's adapter in one of three."""
    # The release knows one scale: peft's default alpha over the rank.
    factor = np.float32(adapters.config.alpha / LoRAConfig().alpha)
    listed: dict[str, list[str]] = {key: [] for key in ADAPTERS.values()}
    state = {}
    for layer, (a, b) in adapters.layers.items():
        name = _adapter_name(layer)
        listed[ADAPTERS[name]].append(layer)
        state[f"{layer}.lora_A.{name}.weight"] = a
        state[f"{layer}.lora_B.{name}.weight"] = b if factor == 1 else factor * b
    for name in unet:
        if any(part in name for part in TRAINED_IN_FULL):
            layer, _, leaf = name.rpartition(".")
            adapted = layer in adapters.layers
            state[f"{layer}.base_layer.{leaf}" if adapted else name] = unet[name]
    return {"state_dict_unet": _torch(state), "rank_unet": adapters.config.rank, **listed}


def _adapter_name(layer: str) -> str:
    if "down_blocks" in layer or "conv_in" in layer:
        return "default_encoder"
    return "default_decoder" if "up_blocks" in layer else "default_others"


def _dtype(tensors: Tensors) -> np.dtype:
    return tensors[next(iter(tensors))].dtype


def _torch(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return {name: numpy_as_torch(array) for name, array in arrays.items()}


def _save_pickle(path: Path, content: Mapping[str, Any]) -> None:
    import torch

    try:
        torch.save(content, path)
    except RuntimeError as error:  # torch's error for a full disk
        raise UserError(f"cannot write {path}: {str(error).splitlines()[0]}.") from error
