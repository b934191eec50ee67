"""The training loop: devices, data, checkpoints and logs around the step of a stage."""

import dataclasses
import importlib
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from tvt_jax.checkpoint import Checkpoints, abstract_like
from tvt_jax.config import TrainConfig
from tvt_jax.data.pipeline import batches
from tvt_jax.errors import UserError
from tvt_jax.memory import check_fits
from tvt_jax.parallel import (
    make_mesh,
    put_batch,
    put_state,
    replicated,
    state_shardings,
    to_host,
)
from tvt_jax.training.metrics_log import MetricsLog, StepRecord
from tvt_jax.training.state import Stage, TrainState, init_state, num_parameters
from tvt_jax.training.step import make_step
from tvt_jax.training.validation import Validation

# Configuration class -> the module that makes its stage.
STAGES = {"VAETrainConfig": "tvt_jax.training.vae"}


def train(config: TrainConfig, workdir: Path, quiet: bool = False) -> Path:
    """Runs a stage from its last checkpoint, or from the start, to the end.

    Args:
      config: validated settings.
      workdir: folder of the run: checkpoints, `metrics.jsonl`, TensorBoard files, and at the end
        the trained network as a diffusers folder. Processes of one run share it.
      quiet: no progress bar and no notes.

    Returns: the folder of the trained network, or `workdir` when a signal ended the run before.
    Raises:
      UserError: settings, files or folders are wrong, memory does not suffice, or too many updates
        in a row were not finite.
    """
    main = jax.process_index() == 0
    say = print if main and not quiet else lambda *_: None
    mesh = make_mesh(config.mesh)
    _check_batch(config, mesh)
    stage = importlib.import_module(STAGES[type(config).__name__]).make_stage(config)
    for name, names in stage.trained.items():
        count = num_parameters(stage.params[name])
        say(f"{name}: {len(names)} trained arrays, {count:,} numbers")
    _make_workdir(workdir)
    if main:
        _write_trained(workdir / "trained_parameters.txt", stage)

    state, frozen, shardings = _place(stage, config, mesh)
    checkpoints = Checkpoints(workdir, config.checkpoint_every, config.keep_checkpoints)
    start = checkpoints.latest or 0
    data = batches(config.data, config.seed, start, say)
    # The position in the data means the same only for the same pictures.
    run = {**_identity(config), "pictures": data.fingerprint}
    if start:
        state = checkpoints.restore(abstract_like(state, shardings), run)
        say(f"resumed at step {start}")
    key = jax.jit(lambda: jax.random.key(config.seed), out_shardings=replicated(mesh))()
    validation = None
    if config.validation.folder:
        lpips_folder = Path(config.lpips) if config.lpips else None
        validation = Validation(stage, config.validation, lpips_folder, mesh)

    stop = _StopSignal()
    done, step_fn, pending = start, None, None
    log = MetricsLog(workdir, start, config.steps, quiet=quiet, write=main)
    with data, log, stop:
        while done < config.steps and not stop.asked(done):
            clock = time.perf_counter()
            batch = put_batch(next(data), mesh)
            waited = time.perf_counter() - clock
            if step_fn is None:
                step_fn = _compile(stage, config, mesh, (state, frozen, batch, key), say)
                clock = time.perf_counter() - waited  # compiling is not part of a step
            state, metrics = step_fn(state, frozen, batch, key)
            # The step before is read only now, while the device works on this one.
            _read(log, pending, config)
            done += 1
            pending = StepRecord(done, metrics, time.perf_counter() - clock, waited)
            checkpoints.save(done, state, run)
            if validation is not None and (
                done % config.validation.every == 0 or done == config.steps
            ):
                log.write_validation(done, *validation(state.best_params, frozen))
        _read(log, pending, config)
    checkpoints.save(done, state, run, force=True)
    checkpoints.close()
    if done < config.steps:
        say(f"stopped at step {done}, saved; the same command resumes")
        return workdir
    result = workdir / stage.result
    params, frozen = to_host((state.best_params, frozen))
    if main:
        stage.export(params, frozen, result)
    say(f"wrote {result}")
    return result


def _place(stage: Stage, config: TrainConfig, mesh) -> tuple[TrainState, Any, Any]:
    """(state, frozen parameters) on the devices, and the state's shardings."""
    shapes = jax.eval_shape(lambda: init_state(stage, config.steps, bool(config.ema_decay)))
    shardings = state_shardings(shapes, mesh)
    params = put_state(stage.params, shardings.params)
    on_devices = dataclasses.replace(stage, params=params)
    init = jax.jit(
        lambda params: init_state(
            dataclasses.replace(on_devices, params=params), config.steps, bool(config.ema_decay)
        ),
        out_shardings=shardings,
    )
    return init(params), put_state(stage.frozen, state_shardings(stage.frozen, mesh)), shardings


def _compile(
    stage: Stage, config: TrainConfig, mesh, arguments: tuple, say: Callable[[str], None]
) -> jax.stages.Compiled:
    """Compiles the step, and says what memory it takes before it runs."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, arguments)
    step = jax.jit(
        make_step(stage, config, mesh),
        donate_argnums=0,
        in_shardings=shardings,
        out_shardings=(shardings[0], replicated(mesh)),
    )
    compiled = step.lower(*arguments).compile()
    needed = check_fits(
        compiled,
        "a training step",
        "lower --config.data.batch_size, raise --config.accumulate, or set --config.remat=true",
    )
    if needed is not None:
        held = sum(
            leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(arguments[:2])
        )
        say(
            f"memory of a device: {held / 2**30:.2f} GiB of weights and optimizer, "
            f"{needed / 2**30:.2f} GiB for a step"
        )
    return compiled


def _read(log: MetricsLog, record: StepRecord | None, config: TrainConfig) -> None:
    """Fetches the metrics of a step, logs them when they are due, and stops a hopeless run."""
    if record is None:
        return
    values = {name: float(value) for name, value in jax.device_get(record.metrics).items()}
    log.add(record, values, config.data.batch_size)
    if record.step == 1 or record.step % config.log_every == 0 or record.step == config.steps:
        log.write(record.step, values)
    if values["skipped_in_row"] >= config.max_skipped:
        raise UserError(
            f"{config.max_skipped} updates in a row were not finite, up to step {record.step}; "
            "the checkpoints hold the last good weights. Lower --config.optim.learning_rate "
            "(or set --config.dtype=float32) and start again in another --workdir."
        )


def _check_batch(config: TrainConfig, mesh) -> None:
    parts = mesh.size * config.accumulate
    if config.data.batch_size % parts:
        raise UserError(
            f"--config.data.batch_size={config.data.batch_size} is not a multiple of "
            f"{mesh.size} devices x --config.accumulate={config.accumulate}."
        )


def _make_workdir(workdir: Path) -> None:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / f".writable-{jax.process_index()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"--workdir {workdir} cannot be written: {error.strerror}.") from error


def _write_trained(path: Path, stage: Stage) -> None:
    lines = [f"{network}.{name}" for network, names in stage.trained.items() for name in names]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


# May differ between the sittings of one run without changing what it computes.
_FREE_TO_CHANGE = (
    "steps", "log_every", "checkpoint_every", "keep_checkpoints", "max_skipped", "mesh",
    "required", "validation", "data.threads", "data.workers", "data.prefetch", "data.max_failed",
)  # fmt: skip


def _identity(config: TrainConfig) -> dict:
    """The settings that a resumed run must share, as JSON values by dotted name."""
    flat = {}

    def add(prefix, values):
        for name, value in values.items():
            if prefix + name in _FREE_TO_CHANGE:
                continue
            if isinstance(value, dict):
                add(f"{prefix}{name}.", value)
            else:
                flat[prefix + name] = list(value) if isinstance(value, tuple) else value

    add("", dataclasses.asdict(config))
    if "cosine" in flat.values():  # the learning rate follows the length of the run
        flat["steps"] = config.steps
    return flat


class _StopSignal:
    """Remembers SIGTERM and SIGINT, so that the loop can save before it ends.

    With several processes a SIGTERM to any of them is caught by jax.distributed, which lets all
    stop after the same step; one that stopped alone would leave the others waiting for it.
    """

    def __init__(self):
        self._asked = False
        self._signals = [signal.SIGINT]
        if jax.process_count() == 1:
            self._signals.append(signal.SIGTERM)

    def asked(self, step: int) -> bool:
        """Whether to stop before the step after `step`; every process calls it at every step."""
        if jax.process_count() == 1:
            return self._asked
        from jax.experimental import multihost_utils

        return multihost_utils.reached_preemption_sync_point(step)

    def __enter__(self) -> "_StopSignal":
        def ask(number, _):
            self._asked = True
            if jax.process_count() > 1:  # hand it on as the signal that all processes watch
                signal.raise_signal(signal.SIGTERM)

        self._before = {s: signal.signal(s, ask) for s in self._signals}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
