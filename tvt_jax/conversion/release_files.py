"""Recognises the pickles of the release, so that a mixed-up file is named."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tvt_jax.errors import UserError
from tvt_jax.weights.tensor_files import Tensors, load_pickle, torch_tensors_as_numpy

VAE_PREFIX = "vaeDe4."
ADAPTERS = {
    "default_encoder": "unet_lora_encoder_modules",
    "default_decoder": "unet_lora_decoder_modules",
    "default_others": "unet_lora_others_modules",
}
_WANTED = {
    "vae": f"a Lightning checkpoint whose state_dict has tensors under {VAE_PREFIX!r}",
    "tvt": "the trained UNet parts (state_dict_unet, rank_unet, unet_lora_..._modules)",
    "ram": "the tagger's checkpoint (ram_swin_large_14m.pth, tensors under 'visual_encoder.')",
    "dape": "the tagger's adapters (DAPE.pth, tensors called ...lora_A and ...lora_B)",
}


def load_expected(path: Path, parameter: str) -> Mapping[str, Any]:
    """Loads a pickle of the release, or says which other file of the release it is.

    Args:
      parameter: of the conversion, that it was given for; a key of `_WANTED`.

    Raises:
      UserError: it is another file, or cannot be read.
    """
    content = load_pickle(path)
    found = _recognise(content)
    if found != parameter:
        keys = ", ".join(map(str, list(content)[:5])) if isinstance(content, Mapping) else "none"
        hint = f"it looks like the file for `{found}`" if found else f"its keys are: {keys}"
        raise UserError(f"`{parameter}` {path} is not {_WANTED[parameter]}; {hint}.")
    return content


def only_tensors(state: Mapping[str, Any], source: str) -> Tensors:
    """The tensors of a state dict; whatever else a trainer put between them is left out."""
    tensors = {name: value for name, value in state.items() if hasattr(value, "detach")}
    return torch_tensors_as_numpy(tensors, source)


def _recognise(content: Any) -> str | None:
    if not isinstance(content, Mapping):
        return None
    if {"state_dict_unet", "rank_unet", *ADAPTERS.values()} <= set(content):
        return "tvt"
    state = content.get("state_dict")
    if isinstance(state, Mapping) and any(str(k).startswith(VAE_PREFIX) for k in state):
        return "vae"
    model = content.get("model", content)
    if isinstance(model, Mapping) and any("visual_encoder" in str(key) for key in model):
        return "dape" if any("lora" in str(key) for key in model) else "ram"
    return None
