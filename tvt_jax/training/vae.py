"""Training of a VAE: stages 1 and 2, pre-training from scratch, and their ablations.

stage 1       image -> frozen teacher's encoder -> decoder (trained)     L1 + LPIPS + GAN
stage 2       image -> encoder (trained) -> frozen decoder               L1 + LPIPS
pre-training  image -> encoder -> decoder, both trained                  L1 + LPIPS + KL + GAN

The configuration decides which of them a run is: whose latents are decoded, what is trained,
which terms the loss has. Generator and discriminator share one forward pass: the discriminator's
gradient is taken at the generator's parameters before their update, where latent diffusion's code
computes the reconstruction again after it.
Source: paper section 3.2; latent diffusion's `LPIPSWithDiscriminator`.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx

from tvt_jax.config import VAETrainConfig
from tvt_jax.errors import UserError
from tvt_jax.losses import (
    adaptive_weight,
    discriminator_loss,
    generator_loss,
    kl_loss,
    reconstruction_loss,
)
from tvt_jax.models.networks import Network, abstract_network, init_network
from tvt_jax.models.vae import sample_posterior
from tvt_jax.restoration import reconstruct
from tvt_jax.training.stage import Stage, Tree, parameter_names, split_trained, takes_uint8
from tvt_jax.weights.lpips import load_lpips
from tvt_jax.weights.model_folder import (
    load_into,
    load_network,
    network_folder,
    save_network,
)
from tvt_jax.weights.names import params_to_torch


def make_stage(config: VAETrainConfig) -> tuple[Stage, dict[str, Tree], dict[str, Tree]]:
    """Builds the networks and the gradients of a run.

    Returns: (stage, trained parameters, frozen parameters), host arrays keyed by network.
    Raises:
      UserError: a folder that the configuration names is not a VAE of the configured architecture,
        weights are missing, or `config.trained` names parts that the VAE does not have.
    """
    dtype = jnp.dtype(config.dtype)
    vae = init_network("vae", config.vae, config.seed, dtype=dtype, remat=config.remat)
    if config.init_vae:
        vae = load_into(vae, Path(config.init_vae), keep=config.fresh)
    graph, trained, frozen_vae, names = split_trained(vae(vae.params), config.trained)
    model = abstract_network("vae", config.vae, dtype=dtype, remat=config.remat)
    params, frozen = {"vae": trained}, {"vae": frozen_vae}
    optim, trained_names = {"vae": config.optim}, {"vae": names}
    encode_teacher = lpips = discriminator = None
    if config.teacher:
        teacher = load_network(network_folder(Path(config.teacher), "vae"), "vae", dtype, dtype)
        encode_teacher, frozen["teacher"] = _teacher_encoder(teacher, config)
    if config.loss.lpips:
        network = load_lpips("vgg16", config.lpips_folder, dtype, remat=config.remat)
        lpips, frozen["lpips"] = network.graph, network.params
    if config.loss.gan:
        network = init_network("discriminator", config.discriminator, config.seed + 1, dtype=dtype)
        discriminator, params["discriminator"] = network.graph, network.params
        optim["discriminator"] = config.discriminator_optim
        trained_names["discriminator"] = parameter_names(network.params)
    objective = VAEObjective(
        config, graph, nnx.graphdef(model.decoder.conv_out), encode_teacher, lpips, discriminator
    )

    def export(params, frozen, folder: Path) -> None:
        """Writes the whole VAE as a diffusers folder; an encoder that was not trained (stage 1) is
        the initial one."""
        whole = nnx.as_pure(nnx.state(nnx.merge(graph, params["vae"], frozen["vae"])))
        save_network(folder, "vae", config.vae, params_to_torch(model, whole), "float32")

    stage = Stage(
        optim=optim,
        gradients=objective.gradients,
        preview=objective.preview,
        exports=("vae",),
        export=export,
        result=Path("model") / "vae",
        trained=trained_names,
    )
    # Host arrays: the loop places them, and no other reference keeps them on a device.
    return stage, jax.device_get(params), jax.device_get(frozen)


def _teacher_encoder(teacher: Network, config: VAETrainConfig) -> tuple[Callable, Tree]:
    """The teacher as (function (params, image) -> mean, log-variance, features; its parameters).

    A teacher that compresses more than the VAE reads the enlarged image, so that its latent has the
    VAE's resolution (paper, equation 1); one with fewer channels gets them interpolated (S3).
    """
    ratio, left = divmod(teacher.config.downsampling, config.vae.downsampling)
    if left or ratio < 1:
        raise UserError(
            f"`config.teacher` compresses {teacher.config.downsampling} times and the VAE "
            f"{config.vae.downsampling} times: the teacher must compress a whole multiple."
        )
    module, channels = teacher(teacher.params), config.vae.latent_channels
    interpolate = teacher.config.latent_channels != channels
    del module.decoder, module.post_quant_conv  # frees their memory
    graph, params = nnx.split(module)

    def encode(params, image):
        if ratio > 1:
            batch, height, width, colors = image.shape
            size = (batch, ratio * height, ratio * width, colors)
            image = jax.image.resize(image, size, "bicubic")
        mean, logvar, features = nnx.merge(graph, params).encode(image)
        if interpolate:
            shape = (*mean.shape[:-1], channels)
            mean, logvar = (jax.image.resize(x, shape, "linear") for x in (mean, logvar))
        return mean, logvar, features

    return encode, nnx.as_pure(params)


@dataclasses.dataclass(frozen=True)
class VAEObjective:
    """The objective of a VAE's training: its networks' structure, and pure functions of parameters.

    Attributes:
      config: of the run.
      graph: of the VAE, for `nnx.merge(graph, trained, frozen)`.
      last_graph: of its last convolution.
      encode_teacher: function (params, image [B, H, W, 3]) -> (mean, log-variance, features); None
        without a teacher.
      lpips: graph of the perceptual loss's network; None without that loss.
      discriminator: graph of the adversarial loss's network; None without that loss.
    """

    config: VAETrainConfig
    graph: nnx.GraphDef
    last_graph: nnx.GraphDef
    encode_teacher: Callable | None
    lpips: nnx.GraphDef | None
    discriminator: nnx.GraphDef | None

    @takes_uint8
    def gradients(self, params, frozen, batch, key, step):
        """Gradients of the VAE and, with a GAN, of the discriminator.

        Args:
          params: {"vae", and "discriminator" with a GAN}, trained parameters.
          frozen: {"vae": the rest of the VAE, and "teacher", "lpips" where they are used}.
          batch: {"hr": [B, H, W, 3] float32 in [-1, 1]}.
          key: for the sample of the posterior.
          step: number of the step; decides whether the discriminator has started.

        Returns: (gradients keyed as `params`, metrics).
        """
        image, loss = batch["hr"], self.config.loss
        (features, last, latent_loss), backward, parts = jax.vjp(
            lambda vae: self._features(vae, frozen, image, key), params["vae"], has_aux=True
        )
        output, backward_last = jax.vjp(self._last_convolution, features, last)
        (reconstruction, more), cotangent = jax.value_and_grad(self._reconstruction, has_aux=True)(
            output, image, frozen
        )
        parts |= more
        grads, total = {}, reconstruction + latent_loss
        if self.discriminator is not None:
            cotangent, grads["discriminator"], adversarial, more = jax.lax.cond(
                step < loss.gan_start,
                self._before_discriminator,
                self._with_discriminator,
                *(params["discriminator"], features, last, output, image, cotangent),
            )
            total, parts = total + adversarial, parts | more
        (grads["vae"],) = backward((*backward_last(cotangent), jnp.ones_like(latent_loss)))
        return grads, {"loss": total, **parts}

    @takes_uint8
    def preview(self, params, frozen, batch):
        """Reconstructs images [B, H, W, 3] from the mean of their latents."""
        vae = nnx.merge(self.graph, params["vae"], frozen["vae"])
        return reconstruct(vae, batch["hr"], self._encoder(vae, frozen))

    def _encoder(self, vae, frozen):
        """Function image -> (mean, log-variance, features) of the latents that are decoded."""
        if self.config.latents == "teacher":
            return functools.partial(self.encode_teacher, frozen["teacher"])
        return vae.encode

    def _features(self, trained, frozen, image, key):
        """((features [B, H, W, C], the last convolution, loss of the latents), parts)."""
        loss, parts, total = self.config.loss, {}, jnp.float32(0.0)
        vae = nnx.merge(self.graph, trained, frozen["vae"])
        mean, logvar, skips = self._encoder(vae, frozen)(image)
        features = vae.decode_features(sample_posterior(mean, logvar, key), skips)
        if loss.kl:
            kl, parts = kl_loss(mean, logvar, image[0].size)
            total += loss.kl * kl
        if loss.latent:
            wanted, _, _ = self.encode_teacher(frozen["teacher"], image)
            parts["latent"] = jnp.mean(jnp.square(mean - wanted))
            total += loss.latent * parts["latent"]
        last = nnx.as_pure(nnx.state(vae.decoder.conv_out))
        return (features, last, total), parts

    def _last_convolution(self, features, last):
        return nnx.merge(self.last_graph, last)(features).astype(jnp.float32)

    def _reconstruction(self, output, image, frozen):
        if self.lpips is None:
            return reconstruction_loss(output, image)
        perceptual = nnx.merge(self.lpips, frozen["lpips"])
        return reconstruction_loss(output, image, perceptual, self.config.loss.lpips)

    def _with_discriminator(self, params, features, last, output, image, cotangent):
        """Adds the adversarial term to the output's gradient; also returns the discriminator's."""

        def judge(params, images):
            return nnx.merge(self.discriminator, params)(images)

        def fool(output):
            return generator_loss(judge(params, output))[0]

        def tell_apart(params):
            return discriminator_loss(judge(params, image), judge(params, output))

        generator, towards_real = jax.value_and_grad(fool)(output)
        weight = self.config.loss.gan * adaptive_weight(
            features, last["kernel"].shape, cotangent, towards_real
        )
        (_, parts), grads = jax.value_and_grad(tell_apart, has_aux=True)(params)
        parts |= {"generator": generator, "gan_weight": weight}
        return cotangent + weight * towards_real, grads, weight * generator, parts

    def _before_discriminator(self, *arguments):
        """What `_with_discriminator` returns, before the discriminator has started: zeros."""
        _, grads, adversarial, parts = jax.tree.map(
            lambda shape: jnp.zeros(shape.shape, shape.dtype),
            jax.eval_shape(self._with_discriminator, *arguments),
        )
        return arguments[-1], grads, adversarial, parts
