"""A run as a compiled program: its stage, its arrays on the devices, its step."""

from typing import Any

import jax
from jax.sharding import Mesh

from tvt_jax.config import (
    DiffusionTrainConfig,
    RestorationTrainConfig,
    TrainConfig,
    VAETrainConfig,
)
from tvt_jax.errors import UserError
from tvt_jax.memory import compile_to_fit
from tvt_jax.parallel import on_every_device, put_state, state_shardings
from tvt_jax.training import diffusion, restoration, vae
from tvt_jax.training.stage import Stage, Tree
from tvt_jax.training.step import TrainState, init_state, make_step

_MAKE_STAGE = {
    DiffusionTrainConfig: diffusion.make_stage,
    RestorationTrainConfig: restoration.make_stage,
    VAETrainConfig: vae.make_stage,
}


def make_stage(config: TrainConfig) -> tuple[Stage, dict[str, Tree], dict[str, Tree]]:
    """Builds the networks and the gradients of a run.

    Returns: (stage, trained parameters at step 0, frozen parameters); host arrays.
    Raises:
      UserError: see `make_stage` of the stage's module.
    """
    return _MAKE_STAGE[type(config)](config)


def check_batch(config: TrainConfig, mesh: Mesh) -> None:
    """Raises UserError if the batch does not divide evenly over the devices."""
    parts = mesh.size * config.accumulate
    if config.data.batch_size % parts:
        raise UserError(
            f"`config.data.batch_size={config.data.batch_size}` is not a multiple of "
            f"{mesh.size} devices x `config.accumulate={config.accumulate}`."
        )


def place(
    stage: Stage, params: Tree, frozen: Tree, config: TrainConfig, mesh: Mesh
) -> tuple[TrainState, Tree]:
    """Puts everything that a step reads and writes onto the devices.

    Args:
      stage, params, frozen: what `make_stage` returned.
      config: of the run.
      mesh: of the devices.

    Returns: (state before the first step, frozen parameters).
    """

    def init(params):
        return init_state(stage, params, config)

    shardings = state_shardings(jax.eval_shape(init, params), mesh)
    state = jax.jit(init, out_shardings=shardings)(put_state(params, shardings.params))
    return state, put_state(frozen, state_shardings(frozen, mesh))


def compile_step(
    stage: Stage, config: TrainConfig, mesh: Mesh, arguments: tuple
) -> tuple[jax.stages.Compiled, int | None]:
    """Compiles the step of a run.

    Args:
      arguments: (state, frozen, batch, key), on the devices. The state is donated.

    Returns: (the step, bytes per device that it needs beyond its arguments; None where the platform
      does not report it).
    Raises:
      UserError: it does not fit the memory of a device.
    """
    shardings = jax.tree.map(lambda leaf: leaf.sharding, arguments)
    step = jax.jit(
        make_step(stage, config, mesh),
        donate_argnums=0,
        in_shardings=shardings,
        out_shardings=(shardings[0], on_every_device(mesh)),
    )
    with jax.set_mesh(mesh):
        return compile_to_fit(step.lower(*arguments), "a training step", _less_memory(config))


def device_bytes(tree: Any) -> int:
    """Bytes that a tree of arrays takes on each device."""
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))


def _less_memory(config: TrainConfig) -> str:
    """The settings that would reduce memory and are not in use yet."""
    ways = ["lower `config.data.batch_size`", "raise `config.accumulate` or `config.mesh.fsdp`"]
    if not config.remat:
        ways.append("set `config.remat=true`")
    return ", or ".join(ways)
