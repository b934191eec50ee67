"""Memory of a training step on a TPU slice, from the compiler, without a TPU."""

import dataclasses
import os
import tempfile
import time
from pathlib import Path

import jax
from jax.sharding import Mesh

from tvt_jax.benchmarks.stand_ins import batch_shapes, stand_in_vae, with_stand_ins
from tvt_jax.config import TrainConfig
from tvt_jax.errors import UserError
from tvt_jax.memory import compile_program
from tvt_jax.models.attention import compiling_for
from tvt_jax.parallel import batch_sharding, make_mesh, on_every_device, state_shardings
from tvt_jax.training.program import make_stage
from tvt_jax.training.stage import Stage, Tree
from tvt_jax.training.step import init_state, make_step


@dataclasses.dataclass(frozen=True)
class StepMemory:
    """Memory of a step on each device.

    Attributes:
      devices: how many devices the step runs on.
      held: bytes of weights, optimizer states and the batch.
      temporary: bytes of everything that lives during the step only.
      flops: floating-point operations of a device in a step.
      seconds: of compilation.
    """

    devices: int
    held: int
    temporary: int
    flops: float
    seconds: float


def tpu_step_memory(
    config: TrainConfig,
    topology: str,
    quick: bool,
    vae: str | None = None,
) -> StepMemory:
    """Compiles the step of a run for a TPU slice.

    Networks whose folders the configuration does not name are the paper's; see `with_stand_ins`.

    Args:
      config: of the run.
      topology: chip and arrangement, for example "v5e:2x4".
      quick: compile with little effort, in much less time; the memory then differs from that of
        a real run.
      vae: as of `stand_in_vae`.

    Raises:
      UserError: `vae` is needed or unknown, the TPU compiler is not installed, the topology is
        unknown, or the step does not fit the chip's memory (the message has the compiler's
        figures).
    """
    vae = stand_in_vae(config, vae)
    mesh = make_mesh(config.mesh, _devices(topology))
    with tempfile.TemporaryDirectory() as folder, compiling_for("tpu"):
        config = with_stand_ins(config, Path(folder), vae)
        stage, params, frozen = make_stage(config)
        arguments = _arguments(stage, params, frozen, config, mesh)
        del params, frozen
        shardings = jax.tree.map(lambda leaf: leaf.sharding, arguments)
        step = jax.jit(
            make_step(stage, config, mesh),
            donate_argnums=0,
            out_shardings=(shardings[0], on_every_device(mesh)),
        )
        if quick:
            jax.config.update("jax_exec_time_optimization_effort", -1.0)
        start = time.perf_counter()
        with jax.set_mesh(mesh):
            compiled = compile_program(
                step.lower(*arguments),
                f"a training step on {topology}",
                "lower `batch_size` or raise `fsdp`",
            )
    analysis, cost = compiled.memory_analysis(), compiled.cost_analysis()
    return StepMemory(
        devices=mesh.size,
        held=analysis.argument_size_in_bytes,
        temporary=analysis.temp_size_in_bytes,
        flops=cost["flops"],
        seconds=time.perf_counter() - start,
    )


def _devices(topology: str) -> list:
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    from jax.experimental import topologies

    try:
        return topologies.get_topology_desc(topology, platform="tpu").devices
    except Exception as error:  # the plugin raises many kinds
        raise UserError(
            f"no TPU compiler for {topology} ({str(error).splitlines()[0]}); install it with "
            "`pip install libtpu` and name a slice such as v5e:2x4."
        ) from error


def _arguments(stage: Stage, params: Tree, frozen: Tree, config: TrainConfig, mesh: Mesh) -> tuple:
    """(state, frozen, batch, key) of a step as shapes with shardings."""

    def placed(tree, shardings):
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            tree,
            shardings,
        )

    state = jax.eval_shape(lambda: init_state(stage, params, config))
    batch = batch_shapes(stage, config)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return (
        placed(state, state_shardings(state, mesh)),
        placed(frozen, state_shardings(frozen, mesh)),
        placed(batch, dict.fromkeys(batch, batch_sharding(mesh))),
        placed(key, on_every_device(mesh)),
    )
