"""A model folder in memory."""

import dataclasses
import numbers
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding

from tvt_jax.config import SchedulerConfig
from tvt_jax.errors import UserError, check_type
from tvt_jax.hub import local_model
from tvt_jax.inference.tagging import load_tagger
from tvt_jax.models.networks import Network
from tvt_jax.parallel import preferred_dtype
from tvt_jax.text import Text, load_text
from tvt_jax.weights.model_folder import (
    check_is_model_folder,
    load_network,
    read_scheduler_config,
)

Tag = Callable[[Sequence[np.ndarray]], list[list[str]]]  # images [H, W, 3] to their tags
DTYPES = ("auto", "float32", "bfloat16", "float16")


class Model(NamedTuple):
    """What a model folder holds; the tagger is read when the first image comes."""

    vae: Network
    unet: Network
    text: Text
    scheduler: SchedulerConfig
    tagger: Tag | None

    def on(self, sharding: Sharding) -> "Model":
        """The same with its weights on other devices; what is there already is not copied."""
        vae, unet, text = (
            dataclasses.replace(x, params=jax.device_put(x.params, sharding))
            for x in (self.vae, self.unet, self.text)
        )
        return self._replace(vae=vae, unet=unet, text=text)


def vae_dtype(dtype: str) -> str:
    """What the VAE computes in beside a UNet in `dtype`: its values leave float16's range."""
    return "float32" if dtype == "float16" else dtype


def load_model(model: str | Path, dtype: str, lora_scale: float) -> Model:
    """Loads a model folder; arguments and errors as of `Upscaler.from_folder`."""
    check_type("model", model, str, Path)
    check_type("lora_scale", lora_scale, numbers.Real)
    if dtype not in DTYPES:
        raise UserError(f"`dtype` {dtype} is not one of {', '.join(DTYPES)}.")
    model = local_model(model)
    check_is_model_folder(model)
    dtype = jnp.dtype(preferred_dtype() if dtype == "auto" else dtype)
    # The VAE's weights are float32, as the release's.
    vae = load_network(model / "vae", "vae", jnp.dtype(vae_dtype(dtype.name)), jnp.float32)
    unet = load_network(model / "unet", "unet", dtype, dtype, lora_scale)
    text = load_text(model, dtype)
    _check_consistent(vae, unet, text, model)
    tagger = None
    if text.takes_prompts and (model / "tagger").is_dir():
        # Float32 as in the release, and one image at a time: nothing to share among devices.
        tagger = load_tagger(model, batch_size=1, devices=jax.local_devices()[:1])
    return Model(vae, unet, text, read_scheduler_config(model), tagger)


def _check_consistent(vae: Network, unet: Network, text: Text, model: Path) -> None:
    """Networks of one folder must fit each other; their own files cannot show that."""
    latent, width = vae.config.latent_channels, unet.config.cross_attention_dim
    problems = []
    if (unet.config.in_channels, unet.config.out_channels) != (latent, latent):
        problems.append(f"the VAE has {latent} latent channels, the UNet {unet.config.in_channels}")
    if text.width != width:
        name = "text encoder" if text.takes_prompts else "stored prompt embedding"
        problems.append(f"the {name} is {text.width} wide, the UNet wants {width}")
    if problems:
        raise UserError(f"the networks in {model} do not belong together: {'; '.join(problems)}.")
