"""Pre-training of a latent diffusion UNet from scratch, on the latents of a frozen VAE.

    photograph, or its degraded self -> VAE encoder -> latent + noise of t -> UNet -> noise

Stage 3 needs Stable Diffusion; where that is too large, this makes a small one. There is no text:
one stored embedding stands for "photograph", another for "degraded".
Source: latent diffusion's `LatentDiffusion` with `parameterization: eps` and `l_simple_weight: 1`.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tvt_jax.config import DiffusionTrainConfig, SchedulerConfig
from tvt_jax.diffusion import add_noise, alphas_cumprod, predict_clean
from tvt_jax.errors import UserError
from tvt_jax.losses import denoising_loss
from tvt_jax.models.networks import Network, abstract_network, init_network
from tvt_jax.models.vae import sample_posterior
from tvt_jax.training.stage import Stage, Tree, parameter_names, takes_uint8
from tvt_jax.weights.model_folder import (
    load_into,
    load_network,
    network_folder,
    open_network,
    save_network,
    write_scheduler_config,
)
from tvt_jax.weights.names import params_to_torch
from tvt_jax.weights.prompt_embeds import (
    PromptEmbeds,
    has_prompt_embeds,
    load_prompt_embeds,
    save_prompt_embeds,
)

# Noise level of the preview: too much for local smoothing to remove, little enough to compare
# images pixel by pixel.
PREVIEW_TIMESTEP = 300
EMBEDS_TOKENS = 8  # of each of the two embeddings


def make_stage(config: DiffusionTrainConfig) -> tuple[Stage, dict[str, Tree], dict[str, Tree]]:
    """Builds the networks and the gradients of a run.

    Returns: (stage, trained parameters, frozen parameters), host arrays keyed by network.
    Raises:
      UserError: a folder that the configuration names is incomplete, or VAE, UNet and crops do not
        fit each other.
    """
    dtype = jnp.dtype(config.dtype)
    vae_folder = network_folder(Path(config.vae), "vae")
    vae = load_network(vae_folder, "vae", dtype, dtype)
    _check_fits(config, vae)
    unet = init_network("unet", config.unet, config.seed, dtype=dtype, remat=config.remat)
    if config.init_unet:
        unet = load_into(unet, Path(config.init_unet), keep=())
    embeds = _embeds(config)
    scheduler = SchedulerConfig()
    objective = DenoisingObjective(
        degraded=config.degraded,
        noises=config.noises,
        alpha_bar=alphas_cumprod(scheduler),
        scaling=vae.config.scaling_factor,
        vae=vae.graph,
        unet=unet.graph,
    )

    def export(params, frozen, folder: Path) -> None:
        """Writes a folder that stage 3 takes in place of Stable Diffusion's, VAE included."""
        del frozen
        tensors = params_to_torch(abstract_network("unet", config.unet), params["unet"])
        save_network(folder / "unet", "unet", config.unet, tensors, "float32")
        save_network(folder / "vae", "vae", *open_network(vae_folder, "vae"), "float32")
        save_prompt_embeds(folder, embeds)
        write_scheduler_config(folder, scheduler)

    stage = Stage(
        optim={"unet": config.optim},
        gradients=objective.gradients,
        preview=objective.preview,
        exports=("unet",),
        export=export,
        result=Path("model"),
        trained={"unet": parameter_names(unet.params)},
        read={"vae.scaling_factor": vae.config.scaling_factor},
        inputs=("hr", "lr") if config.degraded else ("hr",),
        without_lr=", or set `config.degraded=0`",
    )
    text = {"prompt": embeds.prompt_embeds, "negative": embeds.negative_prompt_embeds}
    frozen = {"unet": {}, "vae": vae.params, "text": text}  # all of the UNet is trained
    # Host arrays: the loop places them, and no other reference keeps them on a device.
    return stage, jax.device_get({"unet": unet.params}), jax.device_get(frozen)


def _embeds(config: DiffusionTrainConfig) -> PromptEmbeds:
    """The embeddings stored beside the initial UNet, or new ones."""
    width = config.unet.cross_attention_dim
    if config.init_unet:
        folder = network_folder(Path(config.init_unet), "unet").parent
        if has_prompt_embeds(folder):
            embeds = load_prompt_embeds(folder)
            if embeds.prompt_embeds.shape[-1] != width:
                raise UserError(
                    f"the embeddings in {folder} are {embeds.prompt_embeds.shape[-1]} wide, the "
                    f"UNet reads {width}."
                )
            return embeds
    return random_embeds(config.seed, EMBEDS_TOKENS, width)


def random_embeds(seed: int, tokens: int, width: int) -> PromptEmbeds:
    """Two random embeddings [1, tokens, width], standard normal.

    They are not trained: the UNet learns their meaning through its projections of them.
    """
    draws = np.random.default_rng(seed).standard_normal((2, 1, tokens, width), np.float32)
    return PromptEmbeds(*draws)


def _check_fits(config: DiffusionTrainConfig, vae: Network) -> None:
    """Networks and crops must fit each other; raises UserError."""
    latent = vae.config.latent_channels
    if (config.unet.in_channels, config.unet.out_channels) != (latent, latent):
        raise UserError(
            f"`config.vae={config.vae}` has {latent} latent channels, the UNet reads "
            f"{config.unet.in_channels} and predicts {config.unet.out_channels}."
        )
    config.check_crops(vae.config.downsampling)


@dataclasses.dataclass(frozen=True)
class DenoisingObjective:
    """What the UNet's training minimises: its networks' structure, and pure functions of
    parameters.

    Attributes:
      degraded: share of the samples that are degraded.
      noises: how many noises each latent is trained with.
      alpha_bar: [timesteps] float32, of the schedule.
      scaling: factor on latents.
      vae, unet: graphs of the networks, for `nnx.merge(graph, params)`.
    """

    degraded: float
    noises: int
    alpha_bar: np.ndarray
    scaling: float
    vae: nnx.GraphDef
    unet: nnx.GraphDef

    @takes_uint8
    def gradients(self, params, frozen, batch, key, step):
        """Gradients of the mean squared error of the predicted noise.

        Args:
          params: {"unet"}, trained parameters.
          frozen: {"vae", "text": {"prompt", "negative"}, both [1, N, C]}.
          batch: {"hr": [B, H, W, 3] float32 in [-1, 1], and "lr" likewise unless nothing is to be
            degraded}.
          key: for the choice of degraded samples, the posterior, timesteps and noise.
          step: not used.

        Returns: (gradients keyed as `params`, metrics).
        """
        del step
        degraded_key, posterior_key, timestep_key, noise_key = jax.random.split(key, 4)
        image, context = self._draw_images(batch, frozen["text"], degraded_key)
        mean, logvar, _ = nnx.merge(self.vae, frozen["vae"]).encode(image)
        mean, logvar, context = (
            jnp.repeat(x, self.noises, axis=0) for x in (mean, logvar, context)
        )
        latent = self.scaling * sample_posterior(mean, logvar, posterior_key)
        count = latent.shape[0]
        timesteps = jax.random.randint(timestep_key, (count,), 0, len(self.alpha_bar))
        noise = jax.random.normal(noise_key, latent.shape, jnp.float32)
        noisy = add_noise(latent, noise, jnp.asarray(self.alpha_bar)[timesteps])

        def loss(unet):
            predicted = nnx.merge(self.unet, unet)(noisy, timesteps, context)
            return denoising_loss(predicted, noise)

        value, gradient = jax.value_and_grad(loss)(params["unet"])
        return {"unet": gradient}, {"loss": value}

    @takes_uint8
    def preview(self, params, frozen, batch):
        """Images [B, H, W, 3] denoised in one step at `PREVIEW_TIMESTEP`, from fixed noise."""
        vae = nnx.merge(self.vae, frozen["vae"])
        mean, _, skips = vae.encode(batch["hr"])
        latent = self.scaling * mean
        noise = jax.random.normal(jax.random.key(0), latent.shape[1:], jnp.float32)[None]
        alpha_bar = self.alpha_bar[PREVIEW_TIMESTEP]
        noisy = add_noise(latent, noise, alpha_bar)
        prompt = frozen["text"]["prompt"]
        predicted = nnx.merge(self.unet, params["unet"])(
            noisy,
            jnp.full((latent.shape[0],), PREVIEW_TIMESTEP),
            jnp.broadcast_to(prompt, (latent.shape[0], *prompt.shape[1:])),
        )
        return vae.decode(predict_clean(noisy, predicted, alpha_bar) / self.scaling, skips)

    def _draw_images(self, batch, text, key):
        """Images [B, H, W, 3], some degraded, and the embeddings [B, N, C] that mark them."""
        image = batch["hr"]
        is_degraded = jax.random.bernoulli(key, self.degraded, image.shape[:1])
        if self.degraded:
            image = jnp.where(is_degraded[:, None, None, None], batch["lr"], image)
        context = jnp.where(is_degraded[:, None, None], text["negative"], text["prompt"])
        return image, context
