"""Stage 3 over many devices, and interrupted. Long: `pytest -m slow -s` runs them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from tests.support.small_sd import write_small_sd, write_small_vae
from tests.training.small_run import read_metrics, wait_for_step

ROOT = Path(__file__).parent.parent.parent
LOSSES = ("loss", "l2", "vsd", "critic")
ON_DEVICES = """
import sys, jax
folder, devices, data, fsdp, workdir = sys.argv[1:]
jax.config.update("jax_num_cpu_devices", int(devices))
from pathlib import Path
from tests.training.small_restoration import small_restoration
from tvt_jax import parallel
from tvt_jax.config import MeshConfig
from tvt_jax.training.loop import train
parallel._MIN_SPLIT_ELEMENTS = 8  # split even the small arrays of this test
settings = small_restoration(Path(folder), mesh=MeshConfig(int(data), int(fsdp)))
settings.data.batch_size = 8
train(settings, Path(workdir), quiet=True)
"""


@pytest.mark.slow
def test_eight_devices_compute_what_one_does(tmp_path):
    torch.manual_seed(0)
    (tmp_path / "sd").mkdir()
    write_small_sd(tmp_path / "sd")
    write_small_vae(tmp_path / "vae")
    for name, mesh in (("one", (1, 1, 1)), ("data", (8, 8, 1)), ("fsdp", (8, 2, 4))):
        command = [sys.executable, "-c", ON_DEVICES, tmp_path, *mesh, tmp_path / name]
        assert subprocess.run(list(map(str, command)), cwd=ROOT).returncode == 0
    one, *others = (
        [[line[key] for key in LOSSES] for line in read_metrics(tmp_path / name)]
        for name in ("one", "data", "fsdp")
    )
    for other in others:
        difference = np.abs(np.subtract(one, other)).max()
        print(f"greatest difference {difference:.1e}")
        assert difference < 1e-5


def run_command(workdir, wait=True):
    command = [
        sys.executable, "-m", "tvt_jax.train", "--config", f"{ROOT}/configs/stage3.py:tiny",
        "--workdir", str(workdir), "--config.steps=12", "--config.checkpoint_every=3",
        "--config.log_every=1", "--config.validation.every=6", "--quiet",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=ENV)
    if wait:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    return process


ENV = {**os.environ, "XLA_FLAGS": ""}  # here it computes more than it compiles


@pytest.mark.slow
def test_a_killed_run_ends_bit_identical(tmp_path):
    run_command(tmp_path / "straight")
    process = run_command(tmp_path / "killed", wait=False)
    wait_for_step(process, tmp_path / "killed", 7)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "model").exists()
    run_command(tmp_path / "killed")
    logs = [
        [[line[key] for key in ("step", *LOSSES)] for line in read_metrics(tmp_path / name)]
        for name in ("straight", "killed")
    ]
    assert logs[0] == logs[1]
    validation = [
        [line["validation/psnr"] for line in read_metrics(tmp_path / name, "validation/psnr")]
        for name in ("straight", "killed")
    ]
    assert validation[0] == validation[1]
    stem = "model/unet/diffusion_pytorch_model.safetensors"
    want, got = (safetensors.numpy.load_file(tmp_path / n / stem) for n in ("straight", "killed"))
    for name in want:
        np.testing.assert_array_equal(got[name], want[name])
