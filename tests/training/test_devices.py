"""A run over many devices and over two processes computes what one device does."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.training.small_run import read_metrics, read_weights, wait_for_step
from tvt_jax.checkpoint import Checkpoints

ROOT = Path(__file__).parent.parent.parent
ON_DEVICES = """
import os, sys, jax
devices, data, fsdp, workdir = sys.argv[1:5]
jax.config.update("jax_num_cpu_devices", int(devices))
from pathlib import Path
from tvt_jax.checkpoint import Checkpoints
from tests.training.small_run import small_config
from tvt_jax import parallel, processes
from tvt_jax.bundled import HELDOUT_PHOTOGRAPHS
from tvt_jax.config import MeshConfig, ValidationConfig
from tvt_jax.training.loop import train
if "JAX_PROCESS_ID" in os.environ:
    processes.start_processes()
parallel._MIN_SPLIT_ELEMENTS = 8  # split even the small arrays of this test
settings = small_config(
    steps=4, ema_decay=0.9, mesh=MeshConfig(int(data), int(fsdp)),
    validation=ValidationConfig(str(HELDOUT_PHOTOGRAPHS), every=1, crop=32, lpips=False),
)
settings.data.batch_size = 8
if len(sys.argv) > 5:
    settings.steps = int(sys.argv[5])
train(settings, Path(workdir), quiet=True)
"""


def start_on_devices(devices, data, fsdp, workdir, *more, env=None):
    arguments = [*map(str, (devices, data, fsdp, workdir)), *map(str, more)]
    command = [sys.executable, "-c", ON_DEVICES, *arguments]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, **(env or {})})


def run_on_devices(*arguments, **options):
    assert start_on_devices(*arguments, **options).wait() == 0


@pytest.fixture(scope="module")
def on_one_device(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("one")
    run_on_devices(1, 1, 1, workdir)
    return workdir


def losses(workdir):
    """Losses and validation PSNR of every step."""
    validation = read_metrics(workdir, "validation/psnr")
    return [
        (line["loss"], other["validation/psnr"])
        for line, other in zip(read_metrics(workdir), validation, strict=True)
    ]


@pytest.mark.parametrize(
    "mesh", [pytest.param((8, 1), marks=pytest.mark.slow), (2, 4)], ids=["data", "data and fsdp"]
)
def test_eight_devices_compute_what_one_does(tmp_path, mesh, on_one_device):
    run_on_devices(8, *mesh, tmp_path)
    np.testing.assert_allclose(losses(tmp_path), losses(on_one_device), atol=1e-5)


@pytest.mark.slow  # a run of two processes is resumed by one below
def test_a_checkpoint_moves_to_another_mesh(tmp_path, on_one_device):
    run_on_devices(8, 2, 4, tmp_path, 2)
    run_on_devices(4, 4, 1, tmp_path)
    np.testing.assert_allclose(losses(tmp_path), losses(on_one_device), atol=1e-5)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def environments():
    """What tells each of two processes where the other is."""
    address = f"127.0.0.1:{free_port()}"
    shared = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    return [{**shared, "JAX_PROCESS_ID": str(index)} for index in range(2)]


def start_two_processes(workdir, *more):
    return [start_on_devices(2, 2, 2, workdir, *more, env=env) for env in environments()]


def test_two_processes_train_together_and_one_goes_on(tmp_path, on_one_device):
    processes = start_two_processes(tmp_path, 2)
    assert [process.wait() for process in processes] == [0, 0]
    assert (tmp_path / "model" / "vae" / "config.json").is_file()
    run_on_devices(1, 1, 1, tmp_path)
    np.testing.assert_allclose(losses(tmp_path), losses(on_one_device), atol=1e-5)
    want, got = read_weights(on_one_device), read_weights(tmp_path)
    for name in want:
        np.testing.assert_allclose(got[name], want[name], atol=1e-5)


@pytest.mark.slow  # to one process in test_loop.py, and a failure of one of two below
def test_a_signal_to_one_process_stops_both_after_the_same_step(tmp_path):
    processes = start_two_processes(tmp_path, 100_000)
    try:
        wait_for_step(processes[1], tmp_path, 3)
        for _ in range(2):  # of a shell that passes it on, too
            processes[1].send_signal(signal.SIGTERM)
            time.sleep(0.1)
        assert [process.wait(timeout=120) for process in processes] == [143, 143]
    finally:  # they would go on for hours
        for process in processes:
            process.kill()
    saved = max(int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit())
    assert saved == read_metrics(tmp_path)[-1]["step"]


FAILING = """
import os, runpy, signal, sys
workdir, failing, how = sys.argv[1:]
from tvt_jax.errors import UserError
from tvt_jax.training import loop
real, calls = loop.put_batch, []
def put_batch(*arguments):
    calls.append(1)
    if len(calls) == 10 and os.environ["JAX_PROCESS_ID"] == failing:
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise UserError("the disk of this host is gone.") if how == "user" else OSError("a bug")
    return real(*arguments)
loop.put_batch = put_batch
sys.argv = [
    "train", "--distributed", "--config", workdir + "/config.py", "--workdir", workdir, "--quiet"
]
runpy.run_module("tvt_jax.train", run_name="__main__")
"""

CONFIG = """
from tests.training.small_run import small_config
def get_config(variant=""):
    everything = ("encoder", "quant_conv", "post_quant_conv", "decoder")
    return small_config(trained=everything, steps=100_000, checkpoint_every=2)
"""


@pytest.mark.parametrize(
    ("failing", "how", "reason"),
    [
        (1, "user", "error: the disk of this host is gone."),
        # Minutes of two processes on two cores: the same, from the other side.
        pytest.param(1, "killed", None, marks=pytest.mark.slow),
        pytest.param(0, "user", "error: the disk of this host is gone.", marks=pytest.mark.slow),
        pytest.param(1, "fault", "OSError: a bug", marks=pytest.mark.slow),
    ],
)
def test_a_failure_in_one_process_ends_both_and_keeps_the_checkpoint(
    tmp_path, failing, how, reason
):
    (tmp_path / "config.py").write_text(CONFIG)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", FAILING, str(tmp_path), str(failing), how],
            cwd=ROOT,
            env={**os.environ, **env},
            stderr=subprocess.PIPE,
            text=True,
        )
        for env in environments()
    ]
    try:
        wait_for_step(processes[0], tmp_path, 8)
        start = time.monotonic()
        told = [process.communicate(timeout=120)[1] for process in processes]
        assert time.monotonic() - start < 60
    finally:
        for process in processes:
            process.kill()
    if how == "killed":
        assert all(process.returncode != 0 for process in processes)
    else:
        status = 2 if how == "user" else 1  # what starts runs tells mistakes from faults by it
        assert [process.returncode for process in processes] == [status, status]
        assert reason in told[failing] and not told[1 - failing].strip(), told
        if how == "user":
            assert len(told[failing].strip().splitlines()) == 1
    with Checkpoints(tmp_path, every=2, keep=3) as checkpoints:
        assert checkpoints.latest in (6, 8)  # that of step 8 may have been under way
