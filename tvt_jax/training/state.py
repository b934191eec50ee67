"""What changes from step to step, and what a stage gives to the loop."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from tvt_jax.config import OptimConfig, TrainConfig
from tvt_jax.errors import UserError

Tree = Any


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
        """The parameters, with the average in place of those that have one."""
        return {**self.params, **self.ema}


@dataclasses.dataclass(frozen=True)
class Stage:
    """A training stage, as the loop sees it.

    Attributes:
      params: trained parameters at step 0, keyed by network ("vae", "discriminator"); host arrays.
      frozen: parameters that are read and never change, keyed by network; host arrays.
      optim: the optimizer's settings of each trained network.
      gradients: pure function (params, frozen, batch, key, step) -> (gradients keyed as `params`,
        metrics). Metrics are float32 scalars with the total under "loss".
      preview: pure function (params, frozen, batch) -> images [B, H, W, 3] float32, what the
        networks make of a validation batch.
      exports: networks that are the run's result.
      export: writes them to a folder, (their params, their frozen parameters, folder); host arrays.
      result: where in the run's folder the result goes.
      trained: names of the trained parameters of each network.
      read: what the networks' folders say besides weights, JSON values by dotted name; a resumed
        run must read the same.
      notes: lines for the user.
      inputs: what it needs of a batch.
      without_lr: what a user without low resolution can do besides, for the error message.
      preview_of: which picture of a batch `preview` works on.
      tokenizer: folder of the tokenizer that makes "tokens" of a batch's prompts; empty: none.
    """

    params: dict[str, Tree]
    frozen: Tree
    optim: Mapping[str, OptimConfig]
    gradients: Callable[..., tuple[dict[str, Tree], dict[str, jax.Array]]]
    preview: Callable[..., jax.Array]
    exports: tuple[str, ...]
    export: Callable[[dict[str, Tree], dict[str, Tree], Path], None]
    result: Path
    trained: Mapping[str, tuple[str, ...]]
    read: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ("hr",)
    without_lr: str = ""
    preview_of: str = "hr"
    tokenizer: str = ""


def learning_rate(config: OptimConfig, steps: int) -> optax.Schedule:
    """Linear from 0 over the warm-up, then constant or a cosine to 0 at `steps`."""
    if config.schedule == "cosine":
        decay = optax.cosine_decay_schedule(
            config.learning_rate, max(steps - config.warmup_steps, 1)
        )
    else:
        decay = optax.constant_schedule(config.learning_rate)
    if not config.warmup_steps:
        return decay
    warmup = optax.linear_schedule(0.0, config.learning_rate, config.warmup_steps)
    return optax.join_schedules([warmup, decay], [config.warmup_steps])


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


def init_state(stage: Stage, config: TrainConfig) -> TrainState:
    """The state before the first step.

    Args:
      stage: with its initial parameters.
      config: of the run: its length, for the learning rate, and whether it keeps an average.
    """
    averaged = stage.exports if config.ema_decay else ()
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=stage.params,
        opt_state={
            name: make_optimizer(optim, config.steps).init(stage.params[name])
            for name, optim in stage.optim.items()
        },
        ema={name: jax.tree.map(jnp.array, stage.params[name]) for name in averaged},
        skipped=jnp.zeros((), jnp.int32),
        skipped_in_row=jnp.zeros((), jnp.int32),
    )


def split_trained(
    module: nnx.Module, parts: tuple[str, ...]
) -> tuple[nnx.GraphDef, Tree, Tree, tuple[str, ...]]:
    """Separates trained from frozen parameters: adapters, and parts by their names.

    Args:
      module: the network, real or abstract. Its low-rank adapters are trained.
      parts: dotted prefixes of what else is, for example "encoder" or "decoder.conv_out".

    Returns: (graph for `nnx.merge(graph, trained, frozen)`, trained, frozen, trained names).
    Raises:
      UserError: a part does not exist.
    """
    matched = set()

    def is_trained(path, variable):
        name = ".".join(map(str, path))
        hits = [part for part in parts if name == part or name.startswith(f"{part}.")]
        matched.update(hits)
        return bool(hits) or isinstance(variable, nnx.LoRAParam)

    graph, trained, frozen = nnx.split(module, is_trained, ...)
    unknown = [part for part in parts if part not in matched]
    if unknown:
        raise UserError(f"--config.trained: this network has no {', '.join(unknown)}.")
    return graph, nnx.as_pure(trained), nnx.as_pure(frozen), parameter_names(trained)


def parameter_names(tree: Tree) -> tuple[str, ...]:
    """Dotted names of a network's parameters."""
    return tuple(".".join(map(str, path)) for path, _ in nnx.to_flat_state(tree))


def num_parameters(tree: Tree) -> int:
    """Numbers in a tree of arrays."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))
