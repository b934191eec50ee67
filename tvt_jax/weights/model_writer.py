"""A trained generator as a model folder that `infer` takes at once."""

import shutil
from pathlib import Path

from tvt_jax.config import UNetConfig, VAEConfig
from tvt_jax.errors import UserError
from tvt_jax.weights.adapters import ADAPTER_FILE, Adapters, merged_tensors, save_adapters
from tvt_jax.weights.model_folder import save_network, write_model_index
from tvt_jax.weights.tensor_files import Tensors

# What a model takes over from the Stable Diffusion folder that it was trained with: a text encoder
# and its tokenizer, or the stored embedding in their place.
_TAKEN_OVER = ("scheduler", "text_encoder", "tokenizer", "prompt_embeds.safetensors")


def write_model(
    folder: Path,
    sd: Path,
    unet: tuple[UNetConfig, Tensors, Adapters],
    vae: tuple[VAEConfig, Tensors, Adapters],
    merge: bool,
) -> None:
    """Writes a model folder, float32; an older one in its place is replaced.

    Args:
      folder: the model folder.
      sd: Stable Diffusion folder that text and noise schedule come from.
      unet, vae: configuration, state dict and adapters of each.
      merge: merge the UNet's adapters into its weights; else they stay in a file beside them. The
        VAE's are merged in any case.

    Raises:
      UserError: the disk is full or the folder cannot be written.
    """
    # Written last and removed first: what is half written is no model folder.
    index = folder / "model_index.json"
    try:
        index.unlink(missing_ok=True)
        for part in _TAKEN_OVER:
            if (sd / part).is_dir():
                shutil.copytree(sd / part, folder / part, dirs_exist_ok=True)
            elif (sd / part).is_file():
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(sd / part, folder / part)
        (folder / "unet" / ADAPTER_FILE).unlink(missing_ok=True)
    except (OSError, shutil.Error) as error:
        raise UserError(f"cannot write {folder}: {error}.") from error
    for kind, (config, tensors, adapters) in (("vae", vae), ("unet", unet)):
        if merge or kind == "vae":
            pairs = {layer: [pair] for layer, pair in adapters.layers.items()}
            tensors = merged_tensors(tensors, {}, pairs, adapters.config.scale, tensors.source)
        save_network(folder / kind, kind, config, tensors, "float32")
    if not merge and unet[2].layers:
        save_adapters(folder / "unet", "unet", unet[2])
    write_model_index(folder)
