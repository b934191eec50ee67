"""The loop: logs, checkpoints, signals, and mistakes."""

import dataclasses
import gc
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.training.small_run import read_metrics, read_weights, small_config, wait_for_step
from tvt_jax import memory
from tvt_jax.bundled import HELDOUT_PHOTOGRAPHS
from tvt_jax.checkpoint import Checkpoints
from tvt_jax.config import MeshConfig, OptimConfig, ValidationConfig
from tvt_jax.errors import UserError
from tvt_jax.train import default_workdir
from tvt_jax.training import loop
from tvt_jax.training.loop import train
from tvt_jax.training.workdir import own_workdir

ROOT = Path(__file__).parent.parent.parent
# What a resumed run must repeat; speed and memory are left out.
STEPS = 60  # of the runs that are interrupted at step 7: enough for the signal to arrive in time
EXACT = ("step", "loss", "l1", "grad_norm/vae", "learning_rate/vae", "skipped")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(workdir of an uninterrupted run of six steps, its configuration)."""
    settings = small_config(
        ema_decay=0.5,
        validation=ValidationConfig(str(HELDOUT_PHOTOGRAPHS), every=3, crop=32),
    )
    workdir = tmp_path_factory.mktemp("run")
    train(settings, workdir, quiet=True)
    return workdir, settings


def test_metrics_are_logged_for_every_step(finished):
    lines = read_metrics(finished[0])
    assert [line["step"] for line in lines] == list(range(1, 7))
    assert lines[0]["learning_rate/vae"] == 0.0
    assert abs(lines[-1]["learning_rate/vae"] - 1e-3) < 1e-9
    for line in lines:
        assert np.isfinite(line["loss"]) and line["grad_norm/vae"] > 0
        assert line["peak_memory_gib"] > 0.05 and line["skipped"] == 0
    assert "images_per_second" not in lines[0]  # it holds the compilation
    for line in lines[1:]:
        assert line["images_per_second"] > 0 and 0 <= line["data_wait"] <= 1


def test_validation_is_logged_with_images(finished):
    lines = read_metrics(finished[0], "validation/psnr")
    assert [line["step"] for line in lines] == [3, 6]
    for line in lines:  # reconstructions by a network that has learned nothing yet
        assert 3 < line["validation/psnr"] < 30 and -0.5 < line["validation/ssim"] < 0.9
        assert 0.1 < line["validation/lpips"] < 2
    events = b"".join(path.read_bytes() for path in (finished[0] / "tensorboard").iterdir())
    # A PNG for each of the four photographs at both steps.
    assert events.count(b"\x89PNG") == 8 and b"validation/3" in events


def test_the_trained_parameters_are_summed_up(tmp_path, capsys):
    train(small_config(steps=1), tmp_path)
    said = capsys.readouterr().out
    parts = "encoder.conv_in (2), encoder.conv_norm_out (2), encoder.conv_out (2), encoder."
    assert parts in " ".join(said.split())
    assert "trainable parameters in " in said and str(tmp_path / "trained_parameters.txt") in said
    assert len(said.splitlines()) < 8 and "resnets" not in said


def test_the_trained_parameters_are_listed(finished):
    names = (finished[0] / "trained_parameters.txt").read_text().split()
    assert names and all(n.startswith(("vae.encoder.", "vae.quant_conv.")) for n in names)


def test_what_a_step_tells_is_on_the_disk_before_its_checkpoint(finished, tmp_path, monkeypatch):
    """A run that is killed while it saves loses no record: those of the step are there already."""
    seen, save = {}, Checkpoints.save

    def watched(self, step, *args, **kwargs):
        if not kwargs.get("force"):
            seen[step] = {key for line in read_lines(tmp_path, step) for key in line}
        save(self, step, *args, **kwargs)

    monkeypatch.setattr(Checkpoints, "save", watched)
    settings = dataclasses.replace(finished[1], checkpoint_every=2)
    train(settings, tmp_path, quiet=True)
    assert {"loss"} <= seen[2] & seen[4]
    for step in (3, 6):  # of validation
        assert {"loss", "validation/psnr"} <= seen[step]


def read_lines(workdir, step):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["step"] == step]


def test_the_average_is_what_is_exported(finished):
    """The run keeps an average, so its result differs from that of the same run without."""
    workdir, settings = finished
    plain = dataclasses.replace(settings, ema_decay=0.0)
    other = workdir.parent / "without_average"
    train(plain, other, quiet=True)
    name = "encoder.conv_in.weight"
    assert np.abs(read_weights(workdir)[name] - read_weights(other)[name]).max() > 1e-5


def test_weights_are_on_the_devices_once(tmp_path, monkeypatch):
    """When the step is compiled, nothing but its arguments and a few scalars is in memory."""
    excess, real = [], loop.compile_step

    def counted(*arguments):
        gc.collect()
        held = sum(leaf.nbytes for leaf in jax.tree.leaves(arguments[3]))
        before_test = sum(a.nbytes for a in there)
        excess.append(sum(a.nbytes for a in jax.live_arrays()) - held - before_test)
        return real(*arguments)

    monkeypatch.setattr(loop, "compile_step", counted)
    there = jax.live_arrays()
    train(small_config(), tmp_path, quiet=True)
    assert excess[0] < 4096


def test_nothing_is_compiled_after_the_first_step(tmp_path, monkeypatch):
    """Counts the compiler's events between batches; implicit transfers are refused in the step."""
    events, at_batch, real_put, real_compile = [], [], loop.put_batch, loop.compile_step

    def listen(name, seconds, **_):
        if "backend_compile" in name:
            events.append(name)

    def put_batch(*arguments):
        at_batch.append(len(events))
        return real_put(*arguments)

    def guarded_compile(*arguments):
        compiled, needed = real_compile(*arguments)

        def step(*inputs):
            with jax.transfer_guard("disallow"):
                return compiled(*inputs)

        return step, needed

    jax.monitoring.register_event_duration_secs_listener(listen)
    monkeypatch.setattr(loop, "put_batch", put_batch)
    monkeypatch.setattr(loop, "compile_step", guarded_compile)
    train(small_config(), tmp_path, quiet=True)
    assert events and at_batch[0] < at_batch[1]
    assert len(set(at_batch[1:])) == 1


# --------------------------------------------------------------------------------------------------
# Interruption
# --------------------------------------------------------------------------------------------------


def run_command(workdir, *options, wait=True):
    command = [
        sys.executable, "-m", "tvt_jax.train", "--config", f"{ROOT}/configs/stage2.py:tiny",
        "--workdir", str(workdir), "--config.data.crop=32", "--config.data.batch_size=2",
        "--config.checkpoint_every=3", "--config.log_every=1", "--config.validation.folder=",
        "--quiet", *options,
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    if wait:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    return process


def exact(workdir):
    return [[line[key] for key in EXACT] for line in read_metrics(workdir)]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("straight")
    run_command(workdir, f"--config.steps={STEPS}")
    return workdir


@pytest.mark.parametrize(
    "number",
    [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)],
    ids=["kill", "terminate"],
)
def test_an_interrupted_run_ends_bit_identical(tmp_path, number, uninterrupted):
    process = run_command(tmp_path, f"--config.steps={STEPS}", wait=False)
    wait_for_step(process, tmp_path, 7)
    process.send_signal(number)
    process.wait()
    assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 143)
    assert not (tmp_path / "model").exists()
    run_command(tmp_path, f"--config.steps={STEPS}")
    want, got = read_weights(uninterrupted), read_weights(tmp_path)
    assert set(got) == set(want)
    for name in want:
        np.testing.assert_array_equal(got[name], want[name])
    assert exact(tmp_path) == exact(uninterrupted)


@pytest.mark.slow
def test_twenty_kills_at_random_moments(tmp_path, uninterrupted):
    """kill -9 at any time, also while a checkpoint is being written: nothing is ever lost."""
    rng, kills = np.random.default_rng(0), 0
    options = ("--config.steps=1000", "--config.checkpoint_every=2", "--config.log_every=20")
    straight = tmp_path / "straight"
    run_command(straight, *options)
    workdir = tmp_path / "killed"
    while kills < 20:
        process = run_command(workdir, *options, wait=False)
        # Most moments lie in the loop; some in the start-up before it.
        time.sleep(float(rng.uniform(1.0, 14.0)))
        if process.poll() is not None:
            assert process.returncode == 0, process.stderr.read()
            break
        process.kill()
        process.wait()
        kills += 1
    run_command(workdir, *options)
    want, got = read_weights(straight), read_weights(workdir)
    for name in want:
        np.testing.assert_array_equal(got[name], want[name])
    print(f"killed {kills} times")
    assert kills >= 5


# --------------------------------------------------------------------------------------------------
# Mistakes
# --------------------------------------------------------------------------------------------------

TINY = ("--config", "configs/stage2.py:tiny")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--config", "configs/stage2.py"], "--config.init_vae=... (the VAE whose decoder stage 1"),
        (["--config", "configs/stage2.py"], "--config configs/stage2.py:tiny runs as it is."),
        (["--config", "configs/stage1.py"], "--config.teacher=... (the teacher, the folder vae of"),
        (["--config", "configs/stage2.py:V1,tiny"], "this run needs --config.init_vae=..."),
        ([*TINY, "--config.data.train=nowhere"], "not a folder"),
        ([*TINY, "--config.data.train=configs"], "no images"),
        ([*TINY, "--config.data.crop=63"], "not a multiple"),
        ([*TINY, "--config.init_vae=configs"], "not a vae folder"),
        ([*TINY, "--config.steps=0"], "must be positive"),
        ([*TINY, "--config.seed=-1"], "--config.seed=-1 is not from 0 to 2147483647"),
        ([*TINY, "--config.optim.learning_rate=nan"], "learning_rate=nan is not a finite number"),
        ([*TINY, "--config.fresh=('encodr',)"], "no encodr"),
        ([*TINY, "--config.mesh.data=3"], "does not fit"),
        ([*TINY, "--config.accumulate=3"], "not a multiple"),
        ([*TINY, "--config.latents=teacher"], "--config.teacher=..."),
        (["--config", "configs/stage2.py:huge"], "huge"),
        (["--config", "configs/nothing.py"], "configs/nothing.py does not exist"),
        (["--config", "configs/nothing.py", "--config.steps=3"], "configs/nothing.py"),
        ([*TINY, "--config.step=3"], "step"),
        ([], "--config is missing"),
    ],
)
def test_mistakes_end_with_status_2_and_one_line(tmp_path, options, match):
    command = [sys.executable, "-m", "tvt_jax.train", "--workdir", str(tmp_path / "run"), *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2, done.stderr
    assert match in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_the_default_folder_has_the_name_of_the_configuration_and_its_variant():
    assert default_workdir("configs/stage2.py") == "runs/stage2"
    assert default_workdir("/a/configs/stage1.py:V1,tiny") == "runs/stage1-V1-tiny"


def test_another_run_in_the_same_folder_is_refused(finished):
    workdir, settings = finished
    changed = dataclasses.replace(settings, seed=1, steps=9)
    with pytest.raises(UserError, match="another run .*seed: 0 then, 1 now"):
        train(changed, workdir, quiet=True)


def test_parts_that_do_not_exist_are_refused(tmp_path):
    with pytest.raises(UserError, match="no encodr"):
        train(small_config(trained=("encodr",)), tmp_path, quiet=True)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written"):
        train(small_config(), tmp_path / "file" / "run", quiet=True)


def test_too_little_memory_is_said_before_the_first_step(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda: 2**10)
    with pytest.raises(UserError, match="a training step needs .* `config.accumulate`"):
        train(small_config(), tmp_path, quiet=True)
    assert not read_metrics(tmp_path)


def test_a_compiler_that_knows_of_too_little_memory_is_heard():
    class Lowered:
        def compile(self, compiler_options):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 17 GiB of 16 GiB\nmore")

    with pytest.raises(UserError, match=r"a step does not fit the device \(.*17 GiB.*\); do less"):
        memory.compile_to_fit(Lowered(), "a step", "do less")


def test_updates_that_stay_infinite_stop_the_run_and_keep_the_good_weights(tmp_path):
    exploding = small_config(
        optim=OptimConfig(learning_rate=1e30, warmup_steps=0), steps=200, max_skipped=3
    )
    with pytest.raises(UserError, match="3 updates in a row were not finite, up to step"):
        train(exploding, tmp_path, quiet=True)
    last = read_metrics(tmp_path)[-1]
    assert last["skipped_in_row"] <= 3 and last["step"] < 60


def test_meshes_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(UserError, match="does not fit 1 devices"):
        train(small_config(mesh=MeshConfig(data=-1, fsdp=2)), tmp_path, quiet=True)


LIMITED = """
import resource, runpy, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
sys.argv = ["train", *sys.argv[2:]]
runpy.run_module("tvt_jax.train", run_name="__main__")
"""


@pytest.mark.parametrize(
    ("limit", "every"),
    [(20_000, 1000), pytest.param(100_000, 3, marks=pytest.mark.slow)],
    ids=["logs", "checkpoint"],
)
def test_a_disk_that_is_full_is_one_line_and_loses_nothing(uninterrupted, tmp_path, limit, every):
    """Files that cannot grow, as on a full disk: met by the logs, or by the checkpoint's thread."""
    shutil.copytree(uninterrupted / "checkpoints", tmp_path / "checkpoints")
    command = [
        sys.executable, "-c", LIMITED, str(limit), *TINY, "--workdir", str(tmp_path),
        "--config.data.crop=32", "--config.data.batch_size=2", "--config.log_every=1",
        f"--config.checkpoint_every={every}", "--config.validation.folder=", "--config.steps=200",
        "--quiet",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "cannot write" in done.stderr
    assert not (tmp_path / "model").exists()
    run_command(tmp_path, f"--config.steps={STEPS + 1}")
    assert (tmp_path / "model" / "vae" / "config.json").is_file()


def test_a_second_signal_does_not_break_the_last_save(tmp_path):
    process = run_command(tmp_path, "--config.steps=100000", wait=False)
    wait_for_step(process, tmp_path, 4)
    while process.poll() is None:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.02)
    # -15: one of them met Python's own shutdown, when everything was done.
    assert process.returncode in (143, -signal.SIGTERM), process.stderr.read()
    saved = max(int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit())
    assert saved == read_metrics(tmp_path)[-1]["step"]


def test_ctrl_c_saves_and_stops_a_chain_of_commands(tmp_path):
    process = run_command(tmp_path, "--config.steps=100000", wait=False)
    wait_for_step(process, tmp_path, 4)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130 and not process.stderr.read()
    saved = max(int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit())
    assert saved == read_metrics(tmp_path)[-1]["step"]


HOLDER = """
import sys, time
from pathlib import Path
from tvt_jax.training.workdir import own_workdir
with own_workdir(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_folder_is_one_runs_at_a_time(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        assert holder.stdout.readline() == "held\n"
        command = [sys.executable, "-m", "tvt_jax.train", *TINY, "--workdir", str(tmp_path)]
        second = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        assert second.returncode == 2 and len(second.stderr.strip().splitlines()) == 1
        assert f"another run is using --workdir {tmp_path}" in second.stderr
        assert {path.name for path in tmp_path.iterdir()} == {".lock"}
    finally:
        holder.kill()
        holder.wait()
    with own_workdir(tmp_path):  # nothing is left of the killed one
        pass


def test_a_longer_cosine_run_is_told_what_to_do(tmp_path):
    cosine = small_config(
        steps=2, optim=OptimConfig(learning_rate=1e-3, warmup_steps=1, schedule="cosine")
    )
    train(cosine, tmp_path, quiet=True)
    with pytest.raises(UserError, match="steps: 2 then, 4 now.* set `config.steps=2` to finish"):
        train(dataclasses.replace(cosine, steps=4), tmp_path, quiet=True)


@pytest.mark.parametrize("item", ["state", "run"])
def test_a_checkpoint_that_was_cut_off_is_named(tmp_path, item):
    train(small_config(), tmp_path, quiet=True)
    files = [p for p in (tmp_path / "checkpoints" / "6" / item).rglob("*") if p.is_file()]
    largest = max(files, key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    with pytest.raises(UserError, match="checkpoint 6 .* cannot be read .* remove its folder") as e:
        train(small_config(steps=9), tmp_path, quiet=True)
    assert len(str(e.value).splitlines()) == 1
    shutil.rmtree(tmp_path / "checkpoints" / "6")
    train(small_config(steps=9), tmp_path, quiet=True)
    assert [line["step"] for line in read_metrics(tmp_path)] == list(range(1, 10))


def test_other_frozen_weights_are_another_run(tmp_path):
    """A decoder that was trained anew under the same path must not slip into a resumed run."""
    first = small_config(init_vae=str(tmp_path / "a" / "model"), fresh=("encoder", "quant_conv"))
    train(small_config(), tmp_path / "a", quiet=True)
    train(first, tmp_path / "run", quiet=True)
    train(dataclasses.replace(first, steps=7), tmp_path / "run", quiet=True)
    shutil.rmtree(tmp_path / "a")
    train(small_config(seed=1), tmp_path / "a", quiet=True)
    with pytest.raises(UserError, match="another run .*frozen"):
        train(dataclasses.replace(first, steps=9), tmp_path / "run", quiet=True)
