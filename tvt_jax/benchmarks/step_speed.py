"""Speed of a training step on the available devices."""

import dataclasses
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from tvt_jax.benchmarks.complexity import multiply_adds
from tvt_jax.benchmarks.speed import Program
from tvt_jax.benchmarks.stand_ins import batch_shapes, stand_in_vae, with_stand_ins
from tvt_jax.config import RestorationTrainConfig, TrainConfig, VAETrainConfig
from tvt_jax.parallel import make_mesh, on_every_device, put_batch
from tvt_jax.training.program import check_batch, compile_step, device_bytes, make_stage, place


def compile_random_step(config: TrainConfig, vae: str | None = None) -> Program:
    """Compiles the step of a run on random images.

    Networks whose folders the configuration does not name are the paper's; see `with_stand_ins`. A
    discriminator that joins later in the run takes part from the first step.

    Args:
      config: of the run.
      vae: as of `stand_in_vae`.

    Raises:
      UserError: `vae` or a folder that the configuration names is wrong, or the devices are too
        small or too many for the batch.

    Returns: the program; a call trains on, and gives the metrics.
    """
    vae = stand_in_vae(config, vae)
    mesh = make_mesh(config.mesh)
    check_batch(config, mesh)
    if isinstance(config, VAETrainConfig):
        config = dataclasses.replace(config, loss=dataclasses.replace(config.loss, gan_start=0))
    with tempfile.TemporaryDirectory() as folder:
        config = with_stand_ins(config, Path(folder), vae)
        flops = useful_flops(config)
        stage, params, frozen = make_stage(config)
        state, frozen = place(stage, params, frozen, config, mesh)
        del params
    batch = put_batch(_random_batch(batch_shapes(stage, config)), mesh)
    key = jax.jit(lambda: jax.random.key(config.seed), out_shardings=on_every_device(mesh))()
    held = device_bytes((state, frozen, batch))
    start = time.perf_counter()
    step, needed = compile_step(stage, config, mesh, (state, frozen, batch, key))
    compile_seconds = time.perf_counter() - start

    def run():
        nonlocal state
        state, metrics = step(state, frozen, batch, key)
        return metrics

    return Program(
        run=run,
        dtype=config.dtype,
        devices=mesh.size,
        batch_size=config.data.batch_size,
        flops=flops,
        held=held,
        needed=needed,
        compile_seconds=compile_seconds,
    )


def useful_flops(config: TrainConfig) -> float:
    """Floating-point operations of the gradients of a batch, nothing computed twice.

    Args:
      config: of the run; it names folders for all of its networks, see `with_stand_ins`.
    """
    plain = dataclasses.replace(config, remat=False, accumulate=1)
    if isinstance(config, RestorationTrainConfig):
        plain.loss = dataclasses.replace(config.loss, patches_at_once=0)
    stage, params, frozen = make_stage(plain)
    arguments = (params, frozen, batch_shapes(stage, plain), jax.random.key(0), 0)
    return 2.0 * sum(multiply_adds(stage.gradients, *jax.eval_shape(lambda *a: a, *arguments)))


def _random_batch(shapes: dict[str, jax.ShapeDtypeStruct]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        name: rng.integers(0, 1000 if name == "tokens" else 256, shape.shape, shape.dtype)
        for name, shape in shapes.items()
    }
