"""Memory of a training step on a TPU slice, from the compiler, without a TPU."""

import dataclasses
import os
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from tvt_jax.config import LPIPS_NETS, VAES, VAETrainConfig
from tvt_jax.errors import UserError
from tvt_jax.models.attention import compiling_for
from tvt_jax.parallel import batch_sharding, make_mesh, replicated, state_shardings
from tvt_jax.training.state import Stage, init_state
from tvt_jax.training.step import make_step
from tvt_jax.training.vae import make_stage
from tvt_jax.weights.model_folder import init_network, save_network
from tvt_jax.weights.names import params_to_torch


@dataclasses.dataclass(frozen=True)
class StepMemory:
    """What a step takes of each device.

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


def tpu_step_memory(config: VAETrainConfig, topology: str, quick: bool) -> StepMemory:
    """Compiles the step of a run for a TPU slice.

    Networks whose folders the configuration does not name get random weights.

    Args:
      config: of the run.
      topology: chip and arrangement, for example "v5e:2x4".
      quick: compile with little effort: a tenth of the time; the memory then differs from that of
        a real run.

    Raises:
      UserError: the TPU compiler is not installed, the topology is unknown, or the step does not
        fit the chip's memory (the message has the compiler's figures).
    """
    mesh = make_mesh(config.mesh, _devices(topology))
    with tempfile.TemporaryDirectory() as folder, compiling_for("tpu"):
        stage = make_stage(_with_random_networks(config, Path(folder)))
        arguments = _arguments(stage, config, mesh)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, arguments)
        step = jax.jit(
            make_step(stage, config, mesh),
            donate_argnums=0,
            out_shardings=(shardings[0], replicated(mesh)),
        )
        if quick:
            jax.config.update("jax_exec_time_optimization_effort", -1.0)
        start = time.perf_counter()
        try:
            with jax.set_mesh(mesh):
                compiled = step.lower(*arguments).compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise UserError(
                f"the step does not fit {topology}: {str(error).splitlines()[0]} "
                "Lower --config.data.batch_size or raise --config.mesh.fsdp."
            ) from error
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


def _with_random_networks(config: VAETrainConfig, folder: Path) -> VAETrainConfig:
    config = dataclasses.replace(config, init_vae="")

    def random(kind: str, settings) -> str:
        network = init_network(kind, settings, 0)
        tensors = params_to_torch(network(network.params), network.params)
        save_network(folder / kind, kind, settings, tensors, "float32")
        return str(folder / kind)

    if (config.latents == "teacher" or config.loss.latent) and not config.teacher:
        config.teacher = random("vae", VAES["VAE-D8"])
    if config.loss.lpips and not config.lpips:
        config.lpips = random("lpips", LPIPS_NETS["vgg16"])
    return config


def _arguments(stage: Stage, config: VAETrainConfig, mesh: Mesh) -> tuple:
    """(state, frozen, batch, key) of a step as shapes with shardings."""

    def placed(tree, shardings):
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            tree,
            shardings,
        )

    state = jax.eval_shape(lambda: init_state(stage, config))
    side = config.data.crop
    image = jax.ShapeDtypeStruct((config.data.batch_size, side, side, 3), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return (
        placed(state, state_shardings(state, mesh)),
        placed(stage.frozen, state_shardings(stage.frozen, mesh)),
        placed({"hr": image}, {"hr": batch_sharding(mesh)}),
        placed(key, replicated(mesh)),
    )
