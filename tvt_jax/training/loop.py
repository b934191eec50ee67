"""The training loop: devices, data, checkpoints and logs around the step of a stage."""

import dataclasses
import importlib
import math
import signal
import time
from pathlib import Path

import jax

from tvt_jax.checkpoint import Checkpoints, abstract_like
from tvt_jax.config import TrainConfig
from tvt_jax.data.pipeline import batches
from tvt_jax.errors import UserError
from tvt_jax.parallel import batch_sharding, make_mesh, put_batch, replicated, state_shardings
from tvt_jax.training.metrics_log import MetricsLog

STAGES = {"stage2": "tvt_jax.training.stage2"}


def train(config: TrainConfig, workdir: Path, quiet: bool = False) -> Path:
    """Runs a stage from its last checkpoint, or from the start, to the end.

    Args:
      config: validated settings.
      workdir: folder of the run: checkpoints, `metrics.jsonl`, TensorBoard files, and at the end
        the trained network as a diffusers folder.
      quiet: no progress bar and no notes.

    Returns: the folder of the trained network.
    Raises:
      UserError: settings, files or folders are wrong, or the loss is not finite.
    """
    say = (lambda *_: None) if quiet else print
    if config.stage not in STAGES:
        raise UserError(f"--config.stage={config.stage} is not one of {', '.join(STAGES)}.")
    mesh = make_mesh(config.mesh)
    if config.data.batch_size % mesh.size:
        raise UserError(
            f"--config.data.batch_size={config.data.batch_size} is not a multiple of the "
            f"{mesh.size} devices."
        )
    stage = importlib.import_module(STAGES[config.stage]).make_stage(config)
    say(f"{len(stage.trained)} trained parameters in {', '.join(config.trained)}")

    shardings = state_shardings(stage.state, mesh)
    state = jax.device_put(stage.state, shardings)
    frozen = jax.device_put(stage.frozen, state_shardings(stage.frozen, mesh))
    key = jax.device_put(jax.random.key(config.seed), replicated(mesh))
    step_fn = jax.jit(
        stage.step,
        donate_argnums=0,
        in_shardings=(
            shardings,
            state_shardings(stage.frozen, mesh),
            batch_sharding(mesh),
            replicated(mesh),
        ),
        out_shardings=(shardings, replicated(mesh)),
    )

    _make_workdir(workdir)
    checkpoints = Checkpoints(workdir, config.checkpoint_every, config.keep_checkpoints)
    run = _identity(config)
    start = checkpoints.latest or 0
    if start:
        state = checkpoints.restore(abstract_like(stage.state, shardings), run)
        say(f"resumed at step {start}")

    stop = _StopSignal()
    done = start
    data = batches(config.data, config.seed, start, say)
    with data, MetricsLog(workdir, start, config.steps, quiet) as log, stop:
        pending = None  # metrics of the step before: read only once the next step is under way
        clock, counted = time.perf_counter(), start
        while done < config.steps and not stop.asked:
            batch = put_batch(next(data), mesh)
            state, metrics = step_fn(state, frozen, batch, key)
            if pending is not None:
                _record(log, *pending)
            done += 1
            log.advance(done)
            pending = None
            if done == 1 or done % config.log_every == 0 or done == config.steps:
                now = time.perf_counter()
                rate = (done - counted) * config.data.batch_size / (now - clock)
                pending = (done, metrics, rate)
                clock, counted = now, done
            checkpoints.save(done, state, run)
        if pending is not None:
            _record(log, *pending)
    checkpoints.save(done, state, run, force=True)
    checkpoints.close()
    if stop.asked:
        say(f"stopped at step {done}, saved; the same command resumes")
        return workdir
    result = workdir / "model" / "vae"
    stage.export(state, frozen, result)
    say(f"wrote {result}")
    return result


def _record(log: MetricsLog, step: int, metrics: dict[str, jax.Array], rate: float) -> None:
    values = {name: float(value) for name, value in jax.device_get(metrics).items()}
    if not math.isfinite(values["loss"]):
        raise UserError(
            f"the loss is not finite at step {step}; the last checkpoint is intact. "
            "Lower --config.optim.learning_rate and run the same command again."
        )
    log.write(step, {**values, "images_per_second": rate})


def _make_workdir(workdir: Path) -> None:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"--workdir {workdir} cannot be written: {error.strerror}.") from error


# May differ between the sittings of one run without changing what it computes.
_FREE_TO_CHANGE = ("steps", "log_every", "checkpoint_every", "keep_checkpoints", "mesh", "required")


def _identity(config: TrainConfig) -> dict:
    """The settings that a resumed run must share, as JSON values by dotted name."""
    flat = {}

    def add(prefix, values):
        for name, value in values.items():
            if isinstance(value, dict):
                add(f"{prefix}{name}.", value)
            else:
                flat[prefix + name] = list(value) if isinstance(value, tuple) else value

    values = dataclasses.asdict(config)
    add("", {k: v for k, v in values.items() if k not in _FREE_TO_CHANGE})
    for name in ("threads", "workers", "prefetch", "max_failed"):
        flat.pop(f"data.{name}")
    return flat


class _StopSignal:
    """Remembers SIGTERM and SIGINT, so that the loop can save before it ends."""

    def __init__(self):
        self.asked = False

    def __enter__(self) -> "_StopSignal":
        def ask(*_):
            self.asked = True

        self._before = {s: signal.signal(s, ask) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
