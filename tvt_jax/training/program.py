"""A run as a compiled program: its stage, its arguments on the devices, its step."""

import dataclasses
import importlib
from typing import Any

import jax
from jax.sharding import Mesh

from tvt_jax.config import TrainConfig
from tvt_jax.errors import UserError
from tvt_jax.memory import compile_to_fit
from tvt_jax.parallel import put_state, replicated, state_shardings
from tvt_jax.training.state import Stage, TrainState, init_state
from tvt_jax.training.step import make_step

# Configuration class -> the module that makes its stage.
_STAGES = {
    "DiffusionTrainConfig": "tvt_jax.training.diffusion",
    "RestorationTrainConfig": "tvt_jax.training.restoration",
    "VAETrainConfig": "tvt_jax.training.vae",
}


def make_stage(config: TrainConfig) -> Stage:
    """Builds the networks and the gradients of a run.

    Raises:
      UserError: see `make_stage` of the stage's module.
    """
    return importlib.import_module(_STAGES[type(config).__name__]).make_stage(config)


def check_batch(config: TrainConfig, mesh: Mesh) -> None:
    """Raises UserError where the devices cannot share a batch evenly."""
    parts = mesh.size * config.accumulate
    if config.data.batch_size % parts:
        raise UserError(
            f"--config.data.batch_size={config.data.batch_size} is not a multiple of "
            f"{mesh.size} devices x --config.accumulate={config.accumulate}."
        )


def place(stage: Stage, config: TrainConfig, mesh: Mesh) -> tuple[TrainState, Any, Stage]:
    """Puts the state before the first step onto the devices.

    Args:
      stage: with its parameters, host arrays.
      config: of the run.
      mesh: of the devices.

    Returns: (state, frozen parameters, the stage without its own copies of either).
    """

    def init(params):
        return init_state(dataclasses.replace(stage, params=params), config)

    shapes = jax.eval_shape(init, stage.params)
    shardings = state_shardings(shapes, mesh)
    state = jax.jit(init, out_shardings=shardings)(put_state(stage.params, shardings.params))
    frozen = put_state(stage.frozen, state_shardings(stage.frozen, mesh))
    return state, frozen, dataclasses.replace(stage, params=shapes.params, frozen=None)


def compile_step(
    stage: Stage, config: TrainConfig, mesh: Mesh, arguments: tuple
) -> tuple[jax.stages.Compiled, int | None]:
    """Compiles the step of a run.

    Args:
      arguments: (state, frozen, batch, key), on the devices. The state is donated.

    Returns: (the step, bytes on each device that it needs on top of its arguments; None where the
      platform does not tell).
    Raises:
      UserError: it does not fit the memory of a device.
    """
    shardings = jax.tree.map(lambda leaf: leaf.sharding, arguments)
    step = jax.jit(
        make_step(stage, config, mesh),
        donate_argnums=0,
        in_shardings=shardings,
        out_shardings=(shardings[0], replicated(mesh)),
    )
    with jax.set_mesh(mesh):
        return compile_to_fit(step.lower(*arguments), "a training step", _less_memory(config))


def device_bytes(tree: Any) -> int:
    """Bytes that a tree of arrays takes on each device."""
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))


def _less_memory(config: TrainConfig) -> str:
    """What makes a training step smaller and is not done yet."""
    ways = ["lower --config.data.batch_size", "raise --config.accumulate or --config.mesh.fsdp"]
    if not config.remat:
        ways.append("set --config.remat=true")
    return ", or ".join(ways)
