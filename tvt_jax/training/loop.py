"""The training loop: devices, data, checkpoints and logs around the step of a stage."""

import collections
import contextlib
import hashlib
import os
import signal
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from tvt_jax.checkpoint import Checkpoints, abstract_like
from tvt_jax.config import TrainConfig
from tvt_jax.data.pipeline import batches
from tvt_jax.errors import UserError
from tvt_jax.files import atomic_file, atomic_folder
from tvt_jax.parallel import make_mesh, on_every_device, put_batch, to_host
from tvt_jax.training.metrics_log import MetricsLog, StepRecord
from tvt_jax.training.program import check_batch, compile_step, device_bytes, make_stage, place
from tvt_jax.training.stage import Stage, Tree, num_parameters
from tvt_jax.training.step import TrainState
from tvt_jax.training.validation import Validation
from tvt_jax.training.workdir import Workdir, own_workdir

_LISTING = "trained_parameters.txt"


def train(config: TrainConfig, workdir: str | os.PathLike[str], quiet: bool = False) -> epath.Path:
    """Runs a stage from its last checkpoint, or from the start, to the end.

    Args:
      config: validated settings.
      workdir: folder of the run: checkpoints, `metrics.jsonl`, TensorBoard files, and at the end
        the trained network as a diffusers folder. Local or in a bucket (`gs://`); processes of one
        run share it.
      quiet: no progress bar and no notes.

    Returns: the folder of the trained network.
    Raises:
      UserError: settings, files or folders are wrong, another run is using `workdir`, memory does
        not suffice, or too many updates in a row were not finite.
      SystemExit: SIGINT or SIGTERM ended the run, after it was saved; its code is 130 or 143.
    """
    main = jax.process_index() == 0
    say = print if main and not quiet else lambda *_: None
    mesh = make_mesh(config.mesh)
    check_batch(config, mesh)
    with own_workdir(workdir) as folder:
        stage, params, frozen = make_stage(config)
        _tell_trained(stage, params, folder.path / _LISTING, say)
        with _StopSignal() as stop:
            with Checkpoints(
                folder.path, config.checkpoint_every, config.keep_checkpoints
            ) as checkpoints:
                start = checkpoints.latest or 0
                data = batches(config.data, config.seed, start, say, tokenizer=stage.tokenizer)
                run = {
                    **config.identity(),
                    # A position in the data is only valid for the same images.
                    "pictures": data.fingerprint,
                    "frozen": _fingerprint(frozen),
                    **stage.read,
                }
                state, frozen = place(stage, params, frozen, config, mesh)
                del params
                if start:
                    state = checkpoints.restore(abstract_like(state), run)
                    say(f"resumed at step {start}")
                if main:
                    _write_trained(folder.local / _LISTING, stage)
                log = MetricsLog(folder.local, start, config.steps, quiet=quiet, write=main)
                with data, log:
                    state, done = _run_steps(
                        stage, config, mesh, state, frozen, start, data=data, log=log,
                        folder=folder, checkpoints=checkpoints, run=run, stop=stop, say=say,
                    )  # fmt: skip
                checkpoints.save(done, state, run, force=True)
            if done == config.steps:
                return _export(stage, state, frozen, folder, say)
    say(f"stopped at step {done}, saved; the same command resumes")
    raise SystemExit(stop.exit_status)


def _export(
    stage: Stage, state: TrainState, frozen: Tree, folder: Workdir, say: Callable[[str], None]
) -> epath.Path:
    """Writes the run's result; returns its folder."""
    kept = to_host(
        [{n: t for n, t in tree.items() if n in stage.exports} for tree in (state.best, frozen)]
    )
    if jax.process_index() == 0:
        with atomic_folder(folder.local / stage.result, replace=True) as result:
            stage.export(*kept, result)
    folder.upload()
    say(f"wrote {folder.path / stage.result}")
    return folder.path / stage.result


def _run_steps(
    stage: Stage, config: TrainConfig, mesh: Mesh, state: TrainState, frozen: Tree, start: int, *,
    data, log: MetricsLog, folder: Workdir, checkpoints: Checkpoints, run: dict,
    stop: "_StopSignal", say: Callable[[str], None],
) -> tuple[TrainState, int]:  # fmt: skip
    """Steps from `start` until the end or a signal; returns the state and the steps done."""
    key = jax.jit(lambda: jax.random.key(config.seed), out_shardings=on_every_device(mesh))()
    validation = None
    if config.validation.folder:
        validation = Validation(stage, config, mesh)
    done, step_fn, pending, waited = start, None, None, 0.0
    try:
        while done < config.steps and not stop.asked(done):
            clock = time.perf_counter()
            batch = put_batch(_inputs(next(data), stage), mesh)
            waited += time.perf_counter() - clock
            if step_fn is None:
                step_fn, needed = compile_step(stage, config, mesh, (state, frozen, batch, key))
                _tell_memory((state, frozen), needed, say)
            state, metrics = step_fn(state, frozen, batch, key)
            done += (
                1  # before anything can fail: a save after an error must name the new state's step
            )
            # The metrics of the previous step are fetched while the device computes this one.
            if pending is not None:
                _read(log, pending, config, waited)
                waited = 0.0
            pending = StepRecord(done, metrics)
            validated = validation is not None and (
                done % config.validation.every == 0 or done == config.steps
            )
            if validated or checkpoints.due(done) or done == config.steps:
                # Metrics before the checkpoint of their step: a run killed in between repeats the
                # step, so no record is lost.
                _read(log, pending, config, waited)
                pending, waited = None, 0.0
                with log.pause():
                    if validated:
                        log.write_validation(done, *validation(state.best, frozen))
                    checkpoints.save(done, state, run)
                    folder.upload()
        if pending is not None:  # a signal ended the loop
            _read(log, pending, config, waited)
    except UserError:
        # The state is good: data, disk or the loss failed. Save it. Several processes can only
        # save together, and one may have failed alone.
        if jax.process_count() == 1:
            with contextlib.suppress(UserError):
                checkpoints.save(done, state, run, force=True)
        raise
    return state, done


def _tell_memory(held: Tree, needed: int | None, say: Callable[[str], None]) -> None:
    if needed is not None:
        say(
            f"memory of a device: {device_bytes(held) / 2**30:.2f} GiB of weights and optimizer, "
            f"{needed / 2**30:.2f} GiB for a step"
        )


def _read(log: MetricsLog, record: StepRecord, config: TrainConfig, waited: float) -> None:
    """Fetches the metrics of a step, logs them when they are due, and stops a diverged run.

    `waited` is the time spent waiting for batches since the previous step was read, in seconds.
    """
    values = {name: float(value) for name, value in jax.device_get(record.metrics).items()}
    log.finished(record.step, values, config.data.batch_size, waited)
    if record.step == 1 or record.step % config.log_every == 0 or record.step == config.steps:
        log.write(record.step, values)
    if values["skipped_in_row"] >= config.max_skipped:
        raise UserError(
            f"{config.max_skipped} updates in a row were not finite, up to step {record.step}; "
            "the checkpoints hold the last good weights. Lower `config.optim.learning_rate` "
            "(or set `config.dtype=float32`) and start again in another `workdir`."
        )


def _inputs(batch: dict[str, np.ndarray], stage: Stage) -> dict[str, np.ndarray]:
    """The arrays of a batch that a stage reads."""
    missing = [name for name in stage.inputs if name not in batch]
    if missing:
        raise UserError(
            "this run needs low resolution: set data.degradation in the configuration file, or "
            "give real pairs with `config.data.train_lr` or `config.data.pairs`"
            f"{stage.without_lr}."
        )
    return {name: batch[name] for name in stage.inputs}


def _trained_names(stage: Stage) -> list[str]:
    return [f"{network}.{name}" for network, names in stage.trained.items() for name in names]


def _tell_trained(
    stage: Stage, params: dict[str, Tree], listing: epath.Path, say: Callable[[str], None]
) -> None:
    """Prints a summary of the trainable parameters; `listing` is the file with all names."""
    for network, tree in params.items():
        names = stage.trained[network]
        parts = collections.Counter(_part(name) for name in names)
        counted = ", ".join(f"{part} ({count})" for part, count in parts.items())
        text = f"{network}: {num_parameters(tree):,} trainable parameters in {len(names)} arrays"
        say(textwrap.fill(f"{text}: {counted}", 100, break_on_hyphens=False))
    for note in stage.notes:
        say(textwrap.fill(note, 100, break_on_hyphens=False))
    say(f"names of all trainable parameters: {listing}")


def _part(name: str) -> str:
    """The part of a network that a parameter is in, and whether it is an adapter's."""
    *modules, leaf = name.split(".")
    depth = 3 if len(modules) > 2 and modules[2].isdigit() else 2
    return ".".join(modules[:depth]) + (" adapters" if leaf.startswith("lora_") else "")


def _write_trained(path: Path, stage: Stage) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text("\n".join([*_trained_names(stage), ""]), encoding="utf-8")


def _fingerprint(tree: Tree) -> str:
    """SHA-256 of the arrays of a tree."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        digest.update(np.ascontiguousarray(leaf).view(np.uint8).data)
    return digest.hexdigest()


class _StopSignal:
    """Remembers SIGTERM and SIGINT, so that the loop can save before it ends.

    With several processes a SIGTERM to any of them is caught by jax.distributed, which stops all of
    them after the same step; one that stopped alone would leave the others waiting.
    """

    def __init__(self):
        self._number = None
        self._signals = [signal.SIGINT]
        if jax.process_count() == 1:
            self._signals.append(signal.SIGTERM)

    @property
    def exit_status(self) -> int:
        """As shells have it: 130 after SIGINT, 143 after SIGTERM or a signal to another process."""
        return 128 + (self._number or signal.SIGTERM)

    def asked(self, step: int) -> bool:
        """Whether to stop before the step after `step`; every process calls it at every step."""
        if jax.process_count() == 1:
            return self._number is not None
        from jax.experimental import multihost_utils

        return multihost_utils.reached_preemption_sync_point(step)

    def __enter__(self) -> "_StopSignal":
        def ask(number, _):
            self._number = number
            if jax.process_count() > 1:  # pass it on as the signal that all processes watch
                signal.raise_signal(signal.SIGTERM)

        self._before = {s: signal.signal(s, ask) for s in self._signals}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
