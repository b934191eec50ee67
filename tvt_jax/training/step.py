"""One update of everything that a stage trains: a pure function, compiled once.

The stage computes gradients; the rest is the same for every stage: accumulation over micro-batches,
a check that they are finite, clipping, Adam and a moving average.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from tvt_jax.config import OptimConfig, TrainConfig
from tvt_jax.parallel import gathered
from tvt_jax.training.stage import Stage, Tree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a checkpoint must hold. Trees are keyed by trained network.

    Attributes:
      step: int32 scalar, steps done, skipped ones included.
      params: trained parameters, float32.
      opt_state: of the optimizer of each network.
      ema: moving average of the parameters of the networks that are exported, or an empty dict.
      skipped: int32 scalar, updates that were not finite, from the start.
      skipped_in_row: int32 scalar, the same since the last good update.
    """

    step: jax.Array
    params: dict[str, Tree]
    opt_state: dict[str, Tree]
    ema: dict[str, Tree]
    skipped: jax.Array
    skipped_in_row: jax.Array

    @property
    def best(self) -> dict[str, Tree]:
        """The parameters, replaced by their moving average where there is one."""
        return {**self.params, **self.ema}


def init_state(stage: Stage, params: dict[str, Tree], config: TrainConfig) -> TrainState:
    """The state before the first step.

    Args:
      stage: of the run.
      params: its trained parameters at step 0.
      config: of the run: its length (for the learning rate) and the average's decay.
    """
    averaged = stage.exports if config.ema_decay else ()
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state={
            name: make_optimizer(optim, config.steps).init(params[name])
            for name, optim in stage.optim.items()
        },
        ema={name: jax.tree.map(jnp.array, params[name]) for name in averaged},
        skipped=jnp.zeros((), jnp.int32),
        skipped_in_row=jnp.zeros((), jnp.int32),
    )


def learning_rate(config: OptimConfig, steps: int) -> optax.Schedule:
    """Linear from 0 over the warm-up, then constant or a cosine to 0 at `steps`."""
    peak, warmup = config.learning_rate, config.warmup_steps
    if config.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, max(steps, warmup + 1))
    if not warmup:  # optax's linear schedule would stay at 0
        return optax.constant_schedule(peak)
    return optax.warmup_constant_schedule(0.0, peak, warmup)


def make_optimizer(config: OptimConfig, steps: int) -> optax.GradientTransformation:
    """AdamW with warm-up, clipping and decay as configured, for a run of `steps`."""
    transforms = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    transforms.append(
        optax.adamw(
            learning_rate(config, steps),
            b1=config.beta1,
            b2=config.beta2,
            eps=config.epsilon,
            weight_decay=config.weight_decay,
        )
    )
    return optax.chain(*transforms)


def make_step(
    stage: Stage, config: TrainConfig, mesh: Mesh
) -> Callable[..., tuple[TrainState, dict]]:
    """Returns the update of a stage.

    Returns: pure function (state, frozen, batch, key) -> (state, metrics). `key` is the run's; the
      step's own is folded from it. An update whose loss or gradients are not finite leaves
      parameters, moments and average unchanged and is counted. Metrics: those of the stage, and
      "grad_norm/NAME" (before clipping) and "learning_rate/NAME" of each network, "skipped",
      "skipped_in_row".
    """
    optimizers = {name: make_optimizer(c, config.steps) for name, c in stage.optim.items()}
    rates = {name: learning_rate(c, config.steps) for name, c in stage.optim.items()}
    gradients = accumulated(stage.gradients, config.accumulate)

    def step(state: TrainState, frozen, batch, key):
        key = jax.random.fold_in(key, state.step)
        grads, metrics = gradients(
            gathered(state.params, mesh, config.dtype),
            gathered(frozen, mesh),
            batch,
            key,
            state.step,
        )
        norms = {name: optax.tree.norm(grads[name]) for name in optimizers}
        finite = jnp.isfinite(metrics["loss"])
        for norm in norms.values():
            finite &= jnp.isfinite(norm)

        params, opt_state = {}, {}
        for name, optimizer in optimizers.items():
            updates, opt_state[name] = optimizer.update(
                grads[name], state.opt_state[name], state.params[name]
            )
            params[name] = optax.apply_updates(state.params[name], updates)
        new = dataclasses.replace(
            state,
            params=params,
            opt_state=opt_state,
            ema={
                name: optax.incremental_update(params[name], average, 1.0 - config.ema_decay)
                for name, average in state.ema.items()
            },
        )
        new = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)
        new = dataclasses.replace(
            new,
            step=state.step + 1,
            skipped=state.skipped + ~finite,
            skipped_in_row=jnp.where(finite, 0, state.skipped_in_row + 1),
        )
        for name in optimizers:
            metrics[f"grad_norm/{name}"] = norms[name]
            metrics[f"learning_rate/{name}"] = jnp.asarray(rates[name](state.step), jnp.float32)
        return new, {
            **metrics,
            "skipped": new.skipped,
            "skipped_in_row": new.skipped_in_row,
        }

    return step


def accumulated(gradients: Callable[..., Any], parts: int) -> Callable[..., Any]:
    """Averages the gradients of micro-batches, computed one after the other.

    Args:
      gradients: as in `Stage`.
      parts: number of micro-batches; divides the batch.
    """
    if parts == 1:
        return gradients

    def run(params, frozen, batch, key, step):
        # Micro-batch i takes every parts-th sample, so samples stay on their device.
        split = jax.tree.map(
            lambda x: jnp.moveaxis(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 1, 0),
            batch,
        )

        def one(total, part):
            index, samples = part
            out = gradients(params, frozen, samples, jax.random.fold_in(key, index), step)
            return jax.tree.map(jnp.add, total, out), None

        first = jax.tree.map(lambda x: x[0], split)
        shapes = jax.eval_shape(gradients, params, frozen, first, key, step)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        total, _ = jax.lax.scan(one, zeros, (jnp.arange(parts), split))
        return jax.tree.map(lambda x: x / parts, total)

    return run
