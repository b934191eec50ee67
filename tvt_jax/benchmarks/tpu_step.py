"""What a training step takes on a TPU slice, from the compiler, without a TPU."""

import dataclasses
import math
import os
import re
import tempfile
import time
from pathlib import Path

import jax
from jax.sharding import Mesh

from tvt_jax.benchmarks.stand_ins import batch_shapes, stand_in_vae, with_stand_ins
from tvt_jax.compiler import compile_program
from tvt_jax.config import TrainConfig
from tvt_jax.errors import UserError
from tvt_jax.models.target import compiling_for
from tvt_jax.parallel import batch_sharding, make_mesh, on_every_device, state_shardings
from tvt_jax.training.program import make_stage
from tvt_jax.training.stage import Stage, Tree
from tvt_jax.training.step import init_state, make_step


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """What a step takes on each device.

    Attributes:
      devices: how many devices the step runs on.
      held: bytes of weights, optimizer states and the batch.
      temporary: bytes of everything that lives during the step only.
      flops: floating-point operations of a device in a step, what is computed twice included,
        Pallas kernels left out.
      accessed: bytes that a device's operations read and write in a step, as the compiler reckons.
      collectives: bytes of what a device has after each kind of collective ("all-reduce": as many
        as it gave); those in a loop count once.
      seconds: of compilation.
    """

    devices: int
    held: int
    temporary: int
    flops: float
    accessed: float
    collectives: dict[str, int]
    seconds: float


def compile_tpu_step(
    config: TrainConfig,
    topology: str,
    quick: bool,
    vae: str | None = None,
) -> CompiledStep:
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
    mesh = make_mesh(config.mesh, tpu_devices(topology))
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
    return CompiledStep(
        devices=mesh.size,
        held=analysis.argument_size_in_bytes,
        temporary=analysis.temp_size_in_bytes,
        flops=cost["flops"],
        accessed=cost["bytes accessed"],
        collectives=collective_bytes(compiled.as_text()),
        seconds=time.perf_counter() - start,
    )


_COLLECTIVE = re.compile(
    r"= (\S.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(-start)?\("
)
_ARRAY = re.compile(r"\b(pred|[suf]\d+|bf16|f8\w+)\[([\d,]*)\]")


def collective_bytes(program: str) -> dict[str, int]:
    """Bytes of the results of collectives by kind, from the text of a compiled program."""
    found: dict[str, int] = {}
    chains = set()
    for line in program.splitlines():
        if not (collective := _COLLECTIVE.search(line)):
            continue
        # The stages of an asynchronous collective each name it, with the same chain.
        if chain := re.search(r'chain_id="(\d+)"', line):
            if chain[1] in chains:
                continue
            chains.add(chain[1])
        result, kind, start = collective.groups()
        arrays = [_bytes(dtype, shape) for dtype, shape in _ARRAY.findall(result)]
        if start and kind != "all-reduce":  # (operands, results, semaphores)
            arrays = [size for size in arrays if size > 4]
            arrays = arrays[len(arrays) // 2 :]
        found[kind] = found.get(kind, 0) + sum(arrays)
    return found


def _bytes(dtype: str, shape: str) -> int:
    bits = 8 if dtype == "pred" else int(re.search(r"\d+", dtype)[0])
    return math.prod(int(side) for side in shape.split(",") if side) * bits // 8


def tpu_devices(topology: str) -> list:
    """The devices of a slice that is not there; raises UserError as `compile_tpu_step`."""
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
