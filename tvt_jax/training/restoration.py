"""Stage 3: a generator learns to restore in one step, from a teacher, through a critic.

    LR -> VAE encoder -> UNet (t = 1, text) -> clean latent -> VAE decoder -> SR
    loss: mean squared error + LPIPS + variational score distillation (VSD)

VSD compares the predictions of two UNets for the noised latent: the teacher, unchanged Stable
Diffusion, and the critic, which is trained at every step on what the generator makes. All three
share one copy of the weights of Stable Diffusion's UNet; the generator and the critic add their
adapters, and the generator its layers for the doubled resolution. The gradients of generator and
critic are taken at the same parameters.
Source: paper section 3.3; OSEDiff (`osediff.py`, `train_osediff.py`).
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tvt_jax.config import RestorationTrainConfig
from tvt_jax.conversion.latent_channels import inverse_interpolation
from tvt_jax.diffusion import ONE_STEP_TIMESTEP, add_noise, alphas_cumprod, predict_clean
from tvt_jax.losses import denoising_loss, restoration_loss, vsd_loss
from tvt_jax.models.networks import abstract_network
from tvt_jax.models.target import target_device
from tvt_jax.restoration import restore
from tvt_jax.text import load_text
from tvt_jax.training.restoration_networks import (
    Generator,
    check_fit,
    make_critic,
    make_generator,
    make_vae,
    vae_lora,
)
from tvt_jax.training.stage import Stage, Tree, takes_uint8
from tvt_jax.weights.adapters import split_trained_params
from tvt_jax.weights.lpips import load_lpips
from tvt_jax.weights.model_folder import (
    load_network,
    network_folder,
    open_network,
    read_scheduler_config,
    write_trained_model,
)
from tvt_jax.weights.names import torch_tensors


def make_stage(config: RestorationTrainConfig) -> tuple[Stage, dict[str, Tree], dict[str, Tree]]:
    """Builds the networks and the gradients of a run.

    Returns: (stage, trained parameters, frozen parameters), host arrays; see
      `RestorationObjective.gradients` for their keys.
    Raises:
      UserError: a folder that the configuration names is incomplete or does not fit the others,
        weights are missing, or `config.trained` or `config.vae_trained` names parts that
        the network does not have.
    """
    sd, dtype = Path(config.sd), jnp.dtype(config.dtype)
    scheduler = read_scheduler_config(sd)
    text = load_text(sd, dtype)
    vae_folder = network_folder(Path(config.vae), "vae")
    vae = load_network(vae_folder, "vae", dtype, jnp.float32, remat=config.remat)
    vae_graph, vae_trained, vae_params, vae_names = make_vae(vae, config)
    base = load_network(sd / "unet", "unet", dtype, dtype, remat=config.remat)
    check_fit(config, base, vae, text.width, scheduler.num_train_timesteps)
    generator, trained, own = make_generator(base, sd / "unet", vae.config.latent_channels, config)
    params = {"generator": {"unet": trained, "vae": vae_trained}}
    negative = text.embed_negative(config.loss.negative_prompt)
    embeddings = {"prompts": text.params, "negative": negative}
    frozen = {"sd": base.params, "unet": own, "vae": vae_params, "text": embeddings}
    names = {"generator": generator.names + vae_names}
    optim = {"generator": config.optim}
    critic = lpips = None
    if config.loss.vsd:
        critic, params["critic"], critic_names = make_critic(base, config)
        names["critic"] = tuple(f"unet.{name}" for name in critic_names)
        optim["critic"] = config.critic_optim
    if config.loss.lpips:
        network = load_lpips("vgg16", config.lpips_folder, dtype, remat=config.remat)
        lpips, frozen["lpips"] = network.graph, network.params
    objective = RestorationObjective(
        config=config,
        alpha_bar=alphas_cumprod(scheduler),
        scaling=vae.config.scaling_factor,
        encode_text=text.encode,
        vae=vae_graph,
        generator=generator.graph,
        shared=generator.shared,
        teacher=base.with_dtype(_teacher_dtype(dtype)).graph,
        critic=critic,
        to_teacher=_to_teacher(base.config.in_channels, vae.config.latent_channels),
        lpips=lpips,
    )

    stage = Stage(
        optim=optim,
        gradients=objective.gradients,
        preview=objective.preview,
        exports=("generator",),
        export=_exporter(config, generator, vae_folder),
        result=Path("model"),
        trained=names,
        read={
            "vae.scaling_factor": vae.config.scaling_factor,
            **{f"scheduler.{name}": value for name, value in dataclasses.asdict(scheduler).items()},
            **({"data.prompt": config.data.prompt} if text.takes_prompts else {}),
        },
        notes=(generator.shares(base, own),),
        inputs=("hr", "lr", *(("tokens",) if text.takes_prompts else ())),
        preview_of="lr",
        tokenizer=str(text.tokenizer or ""),
    )
    # Host arrays: the loop places them, and no other reference keeps them on a device.
    return stage, jax.device_get(params), jax.device_get(frozen)


def _exporter(config: RestorationTrainConfig, generator: Generator, vae_folder: Path) -> Callable:
    """Returns the stage's `export`, which writes a model folder for `infer`.

    Frozen weights are copied from their files, so they keep the files' precision.
    """

    def export(params, frozen, folder: Path) -> None:
        del frozen
        unet = generator.trained_tensors(params["generator"]["unet"])
        vae_config, vae_tensors = open_network(vae_folder, "vae")
        table = torch_tensors(abstract_network("vae", vae_config))
        full, vae_adapters = split_trained_params(
            params["generator"]["vae"], table, vae_lora(config)
        )
        write_trained_model(
            folder,
            Path(config.sd),
            (generator.config, *unet),
            (vae_config, vae_tensors.updated(full), vae_adapters),
            merge=not config.adapters,
        )

    return export


def _teacher_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """float16 in the place of bfloat16 on GPUs, as in the release.

    The teacher has no gradients, so float16's range suffices, and guidance multiplies rounding
    errors, so its three more bits count. TPUs have no float16.
    """
    on_gpu = target_device()[0] == "gpu"
    return jnp.dtype("float16") if dtype == jnp.bfloat16 and on_gpu else dtype


def _to_teacher(teacher: int, generator: int) -> np.ndarray | None:
    """Matrix [teacher's channels, generator's] between their latents; None where they are alike."""
    return None if teacher == generator else inverse_interpolation(teacher, generator)


@dataclasses.dataclass(frozen=True)
class RestorationObjective:
    """The objective of stage 3: its networks' structure, and pure functions of parameters.

    Attributes:
      config: of the run.
      alpha_bar: [timesteps] float32, of the schedule.
      scaling: factor on latents.
      encode_text: `encode` of the run's `Text`.
      vae: graph for `nnx.merge(vae, adapters, weights)`.
      generator: likewise for the generator's UNet.
      shared: path of a frozen weight of the generator -> its path in Stable Diffusion's UNet.
      teacher: graph of Stable Diffusion's UNet.
      critic: graph of the same with adapters; None without VSD.
      to_teacher: [teacher's channels, the generator's] where they differ.
      lpips: graph of the perceptual loss's network; None without that loss.
    """

    config: RestorationTrainConfig
    alpha_bar: np.ndarray
    scaling: float
    encode_text: Callable
    vae: nnx.GraphDef
    generator: nnx.GraphDef
    shared: Mapping[tuple, tuple]
    teacher: nnx.GraphDef
    critic: nnx.GraphDef | None
    to_teacher: np.ndarray | None
    lpips: nnx.GraphDef | None

    @takes_uint8
    def gradients(self, params, frozen, batch, key, step):
        """Gradients of the generator and, with VSD, of the critic.

        Args:
          params: {"generator": {"unet", "vae"}, and "critic" with VSD}, trained parameters.
          frozen: {"sd", "unet", "vae", "text", and "lpips" where it is used}.
          batch: {"hr", "lr": [B, H, W, 3] float32 in [-1, 1], and "tokens" [B, 77] with a text
            encoder}.
          key: for the sample of the posterior, timesteps, noise, and the part that LPIPS compares.
          step: not used.

        Returns: (gradients keyed as `params`, metrics).
        """
        del step
        posterior_key, vsd_key, critic_key = jax.random.split(key, 3)
        crop_key = jax.random.fold_in(key, 3)  # besides the three, which stay as they were
        context, negative = jax.lax.stop_gradient(self._embed(frozen["text"], batch))

        def loss(generator):
            image, latent = self._restore(generator, frozen, batch["lr"], context, posterior_key)
            total, parts = self._image_loss(image, batch["hr"], frozen, crop_key)
            if self.critic is None:
                return total, (parts, None)
            patches = self._patches(latent)
            judged = self._judge(params["critic"], frozen, patches, context, negative, vsd_key)
            vsd, more = vsd_loss(patches, *judged)
            return total + self.config.loss.vsd * vsd, (parts | more, patches)

        (total, (parts, patches)), gradient = jax.value_and_grad(loss, has_aux=True)(
            params["generator"]
        )
        grads = {"generator": gradient}
        if self.critic is not None:
            parts["critic"], grads["critic"] = jax.value_and_grad(self._critic_loss)(
                params["critic"], frozen, patches, context, critic_key
            )
        return grads, {"loss": total, **parts}

    @takes_uint8
    def preview(self, params, frozen, batch):
        """Restores images [B, H, W, 3] from the means of their latents."""
        context, _ = self._embed(frozen["text"], batch)
        return self._restore(params["generator"], frozen, batch["lr"], context, None)[0]

    def _embed(self, text, batch):
        """(prompts [B, N, C], negative prompt [1, N, C])."""
        prompts = self.encode_text(text["prompts"], batch.get("tokens"))
        shape = (batch["lr"].shape[0], *prompts.shape[1:])
        return jnp.broadcast_to(prompts, shape), text["negative"]

    def _restore(self, generator, frozen, lr, context, key):
        """(image [B, H, W, 3] in [-1, 1], clean latent [B, h, w, C], scaled)."""
        vae = nnx.merge(self.vae, generator["vae"], frozen["vae"])
        # Frozen weights of the UNet: its own, and those it shares with Stable Diffusion's.
        sd = dict(nnx.to_flat_state(frozen["sd"]))
        weights = dict(nnx.to_flat_state(frozen["unet"]))
        weights |= {path: sd[origin] for path, origin in self.shared.items()}
        unet = nnx.merge(
            self.generator, generator["unet"], nnx.as_pure(nnx.from_flat_state(weights))
        )
        noise = None
        if key is not None and self.config.sample_posterior:
            noise = functools.partial(jax.random.normal, key)
        image, latent = restore(
            vae, unet, lr, context,
            scaling_factor=self.scaling,
            alpha_bar=self.alpha_bar[ONE_STEP_TIMESTEP],
            noise=noise,
        )  # fmt: skip
        return jnp.clip(image, -1.0, 1.0), latent

    def _image_loss(self, image, target, frozen, key):
        loss = self.config.loss
        if self.lpips is None:
            return restoration_loss(image, target, l2_weight=loss.l2, tone_weight=loss.tone)
        lpips = nnx.merge(self.lpips, frozen["lpips"])

        def perceptual(*images):
            return lpips(*(self._lpips_part(x, key) for x in images))

        return restoration_loss(image, target, perceptual, loss.lpips, loss.l2, loss.tone)

    def _lpips_part(self, image, key):
        """The part of images [B, H, W, 3] that LPIPS compares, at one place in all of them."""
        side, (height, width) = self.config.loss.lpips_crop, image.shape[1:3]
        if not side:
            return image
        top, left = jax.random.randint(key, (2,), 0, jnp.array([height, width]) - side + 1)
        return jax.lax.dynamic_slice(
            image, (0, top, left, 0), (image.shape[0], side, side, image.shape[3])
        )

    def _patches(self, latent):
        """Cuts [B, h, w, C] into the teacher's patches, [B * patches, p, p, C], row by row."""
        if self.to_teacher is not None:
            latent = latent @ self.to_teacher.T
        side, (batch, height, width, channels) = self.config.loss.patch, latent.shape
        rows, columns = height // side, width // side
        cut = latent.reshape(batch, rows, side, columns, side, channels)
        return jnp.moveaxis(cut, 3, 2).reshape(-1, side, side, channels)

    def _judge(self, adapters, frozen, patches, context, negative, key):
        """(the critic's prediction of the clean latents, the teacher's), both like `patches`.

        No gradient flows through them.
        """
        patches = jax.lax.stop_gradient(patches)
        loss = self.config.loss
        critic = nnx.merge(self.critic, jax.lax.stop_gradient(adapters), frozen["sd"])
        teacher = nnx.merge(self.teacher, frozen["sd"])
        noisy, _, timesteps = self._noised(patches, key, loss.min_timestep, loss.max_timestep)
        prompts = jnp.repeat(context, patches.shape[0] // context.shape[0], axis=0)

        def judge(latent, t, prompt):
            fake = critic(latent, t, prompt)
            # The teacher's two passes, for guidance, as one batch.
            both = jnp.concatenate([jnp.broadcast_to(negative, prompt.shape), prompt])
            without, with_text = jnp.split(
                teacher(jnp.concatenate([latent] * 2), jnp.concatenate([t] * 2), both), 2
            )
            real = without + loss.guidance * (with_text - without)
            alpha_bar = jnp.asarray(self.alpha_bar)[t]
            return predict_clean(latent, fake, alpha_bar), predict_clean(latent, real, alpha_bar)

        return self._by_groups(judge, noisy, timesteps, prompts)

    def _critic_loss(self, adapters, frozen, patches, context, key):
        """Mean squared error of the critic's noise prediction on the generator's latents."""
        critic = nnx.merge(self.critic, adapters, frozen["sd"])
        noisy, noise, timesteps = self._noised(
            jax.lax.stop_gradient(patches), key, 0, len(self.alpha_bar)
        )
        prompts = jnp.repeat(context, patches.shape[0] // context.shape[0], axis=0)
        return denoising_loss(self._by_groups(critic, noisy, timesteps, prompts), noise)

    def _by_groups(self, function, *arrays):
        """Applies a function of arrays [patches, ...] to as many patches at a time as configured.

        The backward pass goes by the same groups and recomputes each.
        """
        count = arrays[0].shape[0]
        at_once = min(self.config.loss.patches_at_once or count, count)
        if at_once == count:
            return function(*arrays)
        groups = jax.tree.map(
            # Group i takes every n-th patch, so patches stay on their device.
            lambda x: jnp.moveaxis(x.reshape(at_once, count // at_once, *x.shape[1:]), 1, 0),
            arrays,
        )
        outputs = jax.lax.map(jax.checkpoint(lambda group: function(*group)), groups)
        return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(count, *x.shape[2:]), outputs)

    def _noised(self, latent, key, low, high):
        """(noised latents, the noise, timesteps [N] drawn from low to high - 1)."""
        time_key, noise_key = jax.random.split(key)
        timesteps = jax.random.randint(time_key, latent.shape[:1], low, high)
        noise = jax.random.normal(noise_key, latent.shape, jnp.float32)
        return add_noise(latent, noise, jnp.asarray(self.alpha_bar)[timesteps]), noise, timesteps
