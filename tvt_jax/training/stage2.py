"""Stage 2: the VAE-D4 encoder learns to serve the frozen decoder.

HR crop -> encoder (trained) -> sampled latent -> decoder (frozen) -> L1 with the crop.
Source: paper section 3.2, equations 3 and 4; without a GAN, which made training unstable there.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from tvt_jax.config import TrainConfig
from tvt_jax.losses import reconstruction_loss
from tvt_jax.models.vae import sample_posterior
from tvt_jax.training.state import (
    Stage,
    TrainState,
    init_state,
    learning_rate,
    make_optimizer,
    split_trained,
)
from tvt_jax.weights.model_folder import abstract_network, init_network, load_into, save_network
from tvt_jax.weights.names import params_to_torch


def make_stage(config: TrainConfig) -> Stage:
    """Builds the networks, the optimizer and the step.

    Raises:
      UserError: `config.init_vae` is not a VAE folder of the configured architecture, or
        `config.trained` names parts that the VAE does not have.
    """
    options = dict(dtype=jnp.dtype(config.dtype), remat=config.remat)
    network = init_network("vae", config.vae, config.seed, **options)
    if config.init_vae:
        network = load_into(network, Path(config.init_vae), keep=config.trained)
    model = abstract_network("vae", config.vae, **options)
    graph, trained, frozen, names = split_trained(model, network.params, config.trained)
    optimizer, rate = make_optimizer(config.optim), learning_rate(config.optim)

    def loss_fn(params, frozen, image, key):
        vae = nnx.merge(graph, params, frozen)
        mean, logvar, skips = vae.encode(image)
        output = vae.decode(sample_posterior(mean, logvar, key), skips)
        return reconstruction_loss(output, image)

    def step(state: TrainState, frozen, batch, key):
        """One update.

        Args:
          batch: {"hr": [B, H, W, 3] float32 in [-1, 1]}.
          key: of the run; the step's own follows from it.

        Returns: (new state, {"loss", "l1", "grad_norm", "learning_rate"}).
        """
        key = jax.random.fold_in(key, state.step)
        (loss, parts), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            state.params, frozen, batch["hr"], key
        )
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {
            "loss": loss,
            **parts,
            "grad_norm": optax.tree.norm(grads),
            "learning_rate": jnp.asarray(rate(state.step), jnp.float32),
        }
        return TrainState(state.step + 1, params, opt_state), metrics

    def export(state: TrainState, frozen, folder: Path) -> None:
        """Writes the whole VAE as a diffusers folder."""
        params = nnx.as_pure(nnx.state(nnx.merge(graph, state.params, frozen)))
        tensors = params_to_torch(model, jax.device_get(params))
        save_network(folder, "vae", config.vae, tensors, "float32")

    return Stage(init_state(trained, optimizer), frozen, step, export, names)
