"""Speed of a training step on the available devices, and its share of their peak."""

import dataclasses
import statistics
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from tvt_jax.benchmarks.complexity import multiply_adds
from tvt_jax.benchmarks.stand_ins import batch_shapes, stand_in_vae, with_stand_ins
from tvt_jax.config import RestorationTrainConfig, TrainConfig, VAETrainConfig
from tvt_jax.errors import UserError
from tvt_jax.parallel import make_mesh, on_every_device, put_batch
from tvt_jax.progress import progress
from tvt_jax.training.program import check_batch, compile_step, device_bytes, make_stage, place

# Device kind, as JAX names it, begins with -> TFLOP/s of dense bfloat16 products by its data sheet.
# The first that fits counts.
PEAK_TFLOPS = (
    ("NVIDIA A100", 312.0),
    ("NVIDIA H100 PCIe", 756.0),
    ("NVIDIA H100 NVL", 835.0),
    ("NVIDIA H100", 989.0),
    ("NVIDIA H200 NVL", 835.0),
    ("NVIDIA H200", 989.0),
    ("TPU v4", 275.0),
    ("TPU v5 lite", 197.0),
    ("TPU v5", 459.0),
    ("TPU v6 lite", 918.0),
)


@dataclasses.dataclass(frozen=True)
class StepSpeed:
    """Figures of a step.

    Attributes:
      device: kind of the devices. devices: how many.
      batch_size: images in a step.
      seconds: of one step: (median, least, most).
      flops: of the batch's products in layers and attention, forward and backward, without
        recomputation.
      share: of the devices' peak, flops / seconds; None where the peak is not known.
      held: bytes of weights, optimizer and batch on each device.
      needed: bytes beyond them for the step, by the compiler; None where it does not report them.
      peak: most bytes in use since the process began, by the device; None where not reported.
      compile_seconds: of the step.
    """

    device: str
    devices: int
    batch_size: int
    seconds: tuple[float, float, float]
    flops: float
    share: float | None
    held: int
    needed: int | None
    peak: int | None
    compile_seconds: float

    def described(self) -> str:
        """The figures in words."""
        median, least, most = self.seconds
        gib = {
            "weights, optimizer and batch": self.held,
            "a step, by the compiler": self.needed,
            "at most in use": self.peak,
        }
        memory = [f"{n / 2**30:.2f} GiB {what}" for what, n in gib.items() if n is not None]
        share = "" if self.share is None else f", {self.share:.0%} of the peak in bfloat16"
        return (
            f"batch {self.batch_size} on {self.devices} x {self.device}: "
            f"{self.batch_size / median:.3g} images/s; a step {median:.3g} s ({least:.3g} - "
            f"{most:.3g}); {self.flops / 1e12:.4g} TFLOP{share}; on each device "
            f"{', '.join(memory)}; compiled in {self.compile_seconds:.0f} s"
        )


def step_speed(config: TrainConfig, steps: int, vae: str | None = None) -> StepSpeed:
    """Times the step of a run on random images.

    Networks whose folders the configuration does not name are the paper's; see `with_stand_ins`. A
    discriminator that joins later in the run takes part from the first step.

    Args:
      config: of the run.
      steps: how many are timed, after two that are not.
      vae: as of `stand_in_vae`.

    Raises:
      UserError: `vae`, the number of steps or a folder that the configuration names is wrong, or
        the devices are too small or too many for the batch.
    """
    if steps < 1:
        raise UserError("`steps` must be at least 1.")
    vae = stand_in_vae(config, vae)
    mesh = make_mesh(config.mesh)
    check_batch(config, mesh)
    if isinstance(config, VAETrainConfig):
        config = dataclasses.replace(config, loss=dataclasses.replace(config.loss, gan_start=0))
    with tempfile.TemporaryDirectory() as folder:
        config = with_stand_ins(config, Path(folder), vae)
        flops = _flops(config)
        stage, params, frozen = make_stage(config)
        state, frozen = place(stage, params, frozen, config, mesh)
        del params
    batch = put_batch(_random_batch(batch_shapes(stage, config)), mesh)
    key = jax.jit(lambda: jax.random.key(config.seed), out_shardings=on_every_device(mesh))()
    held = device_bytes((state, frozen, batch))
    start = time.perf_counter()
    step, needed = compile_step(stage, config, mesh, (state, frozen, batch, key))
    compile_seconds = time.perf_counter() - start
    seconds = []
    for _ in progress(range(steps + 2), "steps"):
        start = time.perf_counter()
        state, metrics = step(state, frozen, batch, key)
        jax.block_until_ready(metrics)
        seconds.append(time.perf_counter() - start)
    seconds = seconds[2:]
    device = mesh.local_devices[0]
    median, peak = statistics.median(seconds), peak_tflops(device.device_kind)
    return StepSpeed(
        device=device.device_kind,
        devices=mesh.size,
        batch_size=config.data.batch_size,
        seconds=(median, min(seconds), max(seconds)),
        flops=flops,
        share=None if peak is None else flops / median / (peak * 1e12 * mesh.size),
        held=held,
        needed=needed,
        peak=(device.memory_stats() or {}).get("peak_bytes_in_use"),
        compile_seconds=compile_seconds,
    )


def peak_tflops(device_kind: str) -> float | None:
    """TFLOP/s of dense bfloat16 products of a device; None for one that is not in the table."""
    return next((peak for kind, peak in PEAK_TFLOPS if device_kind.startswith(kind)), None)


def _flops(config: TrainConfig) -> float:
    """Floating-point operations of the gradients of a batch, nothing computed twice."""
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
