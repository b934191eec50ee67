"""Networks of the paper's sizes in place of those that a configuration does not name.

Memory and time of a training step depend only on the shapes of its networks, so they can be
measured without real weights.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tvt_jax.config import (
    LPIPS_NETS,
    SD21_UNET,
    VAES,
    DiffusionTrainConfig,
    RestorationTrainConfig,
    SchedulerConfig,
    TrainConfig,
    VAETrainConfig,
)
from tvt_jax.data.samples import PROMPT_TOKENS
from tvt_jax.errors import UserError
from tvt_jax.models.networks import init_network
from tvt_jax.training.stage import Stage
from tvt_jax.weights.model_folder import save_network, write_scheduler_config
from tvt_jax.weights.names import params_to_torch
from tvt_jax.weights.prompt_embeds import PromptEmbeds, save_prompt_embeds


def stand_in_vae(config: TrainConfig, given: str | None) -> str | None:
    """Which VAE of the paper stands for a frozen one whose folder is not named.

    Args:
      config: of a run.
      given: a key of `VAES`. None: VAE-D4 where the generator has its layers for that resolution,
        or is pruned; VAE-D8 to train a diffusion UNet.

    Returns: a key of `VAES`, or None where no VAE is missing.
    Raises:
      UserError: `given` is needed or unknown.
    """
    if not isinstance(config, DiffusionTrainConfig | RestorationTrainConfig) or config.vae:
        return None
    if given is None and isinstance(config, DiffusionTrainConfig):
        return "VAE-D8"
    if given is None and config.generator != "same":
        return "VAE-D4"
    if given not in VAES:
        raise UserError(
            f"`vae` {given} is not one of {', '.join(VAES)}; ablations of stage 3 with Stable "
            "Diffusion's own UNet need it: S1 VAE-D8, S2 VAE-D8-SC, S3 VAE-D8C8, S4 VAE-D4."
        )
    return given


def with_stand_ins(config: TrainConfig, folder: Path, vae: str | None) -> TrainConfig:
    """Names folders with random weights where a configuration names none.

    Of stage 3's text encoder there are its embeddings only.

    Args:
      config: of a run.
      folder: where the networks are written, in bfloat16; it must outlive the run.
      vae: what `stand_in_vae` tells.
    """
    changes = {}
    if isinstance(config, VAETrainConfig):
        changes["init_vae"] = ""
        if (config.latents == "teacher" or config.loss.latent) and not config.teacher:
            changes["teacher"] = _write_network(folder / "teacher", "vae", VAES["VAE-D8"])
    if isinstance(config, RestorationTrainConfig) and not config.sd:
        changes["sd"] = _write_diffusion(folder / "sd")
    if vae is not None:
        changes["vae"] = _write_network(folder / "vae", "vae", VAES[vae])
    perceptual = not isinstance(config, DiffusionTrainConfig) and config.loss.lpips
    if perceptual and not config.lpips:
        place = folder / "lpips" / "vgg16"
        changes["lpips"] = _write_network(place, "lpips", LPIPS_NETS["vgg16"])
    return dataclasses.replace(config, **changes)


def batch_shapes(stage: Stage, config: TrainConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of a batch, as the step of a run takes it."""
    side, size = config.data.crop, config.data.batch_size
    image = jax.ShapeDtypeStruct((size, side, side, 3), jnp.uint8)
    tokens = jax.ShapeDtypeStruct((size, PROMPT_TOKENS), jnp.int32)
    return {name: tokens if name == "tokens" else image for name in stage.inputs}


def _write_diffusion(folder: Path) -> str:
    """Writes what stage 3 reads of a Stable Diffusion folder."""
    _write_network(folder / "unet", "unet", SD21_UNET)
    write_scheduler_config(folder, SchedulerConfig())
    text = np.random.default_rng(0).standard_normal(
        (2, 1, PROMPT_TOKENS, SD21_UNET.cross_attention_dim), np.float32
    )
    save_prompt_embeds(folder, PromptEmbeds(*text))
    return str(folder)


def _write_network(folder: Path, kind: str, settings: Any) -> str:
    network = init_network(kind, settings, seed=0)
    tensors = params_to_torch(network(network.params), network.params)
    save_network(folder, kind, settings, tensors, jnp.bfloat16)
    return str(folder)
