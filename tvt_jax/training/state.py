"""What changes from step to step, and what a stage gives to the loop."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from tvt_jax.config import OptimConfig
from tvt_jax.errors import UserError

Tree = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a checkpoint must hold.

    Attributes:
      step: int32 scalar, steps done.
      params: trained parameters, float32.
      opt_state: of the optimizer of `params`.
    """

    step: jax.Array
    params: Tree
    opt_state: Tree


@dataclasses.dataclass(frozen=True)
class Stage:
    """A training stage, as the loop sees it.

    Attributes:
      state: at step 0 (or shapes of it).
      frozen: parameters that are read and never change.
      step: pure function (state, frozen, batch, key) -> (state, metrics); metrics are scalars.
      export: writes the result, (state, frozen, folder).
      trained: names of the trained parameters.
    """

    state: TrainState
    frozen: Tree
    step: Callable[..., tuple[TrainState, dict[str, jax.Array]]]
    export: Callable[[TrainState, Tree, Path], None]
    trained: tuple[str, ...]


def make_optimizer(config: OptimConfig) -> optax.GradientTransformation:
    """AdamW with warm-up, clipping and decay as configured."""
    transforms = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    transforms.append(
        optax.adamw(
            learning_rate(config),
            b1=config.beta1,
            b2=config.beta2,
            eps=config.epsilon,
            weight_decay=config.weight_decay,
        )
    )
    return optax.chain(*transforms)


def learning_rate(config: OptimConfig) -> optax.Schedule:
    """Linear from 0 to the configured rate over the warm-up, then constant."""
    if not config.warmup_steps:
        return optax.constant_schedule(config.learning_rate)
    return optax.linear_schedule(0.0, config.learning_rate, config.warmup_steps)


def split_trained(
    model: nnx.Module, params: nnx.State, parts: tuple[str, ...]
) -> tuple[nnx.GraphDef, Tree, Tree, tuple[str, ...]]:
    """Separates trained from frozen parameters by the name of the part that they are in.

    Args:
      model: the network (shapes suffice).
      params: its parameters.
      parts: dotted prefixes, for example "encoder" or "decoder.conv_out".

    Returns: (graph for `nnx.merge(graph, trained, frozen)`, trained, frozen, trained names).
    Raises:
      UserError: a part does not exist.
    """
    matched = set()

    def is_trained(path, _):
        name = ".".join(map(str, path))
        hits = [part for part in parts if name == part or name.startswith(f"{part}.")]
        matched.update(hits)
        return bool(hits)

    module = nnx.merge(nnx.graphdef(model), params)
    graph, trained, frozen = nnx.split(module, is_trained, ...)
    unknown = [part for part in parts if part not in matched]
    if unknown:
        raise UserError(f"--config.trained: this network has no {', '.join(unknown)}.")
    names = tuple(".".join(map(str, path)) for path, _ in nnx.to_flat_state(trained))
    return graph, nnx.as_pure(trained), nnx.as_pure(frozen), names


def init_state(params: Tree, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
