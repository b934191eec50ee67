"""Worker processes: the same batches, whatever happens to the process that they work for."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.test_pipeline import assert_equal, config, take
from tests.support.image_files import noise, write_images
from tvt_jax.data.pipeline import batches
from tvt_jax.errors import UserError

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Forty sound images and two that cannot be used."""
    folder = write_images(tmp_path_factory.mktemp("images"), 40)
    (folder / "damaged.jpg").write_bytes(b"\xff\xd8 no")
    Image.fromarray(noise(92, 15, 40)).save(folder / "small.png")
    return folder


def settings(folder, **changes):
    return config(folder, max_failed=0.5, **changes)


@pytest.fixture(scope="module")
def without_workers(folder):
    return take(130, settings(folder))


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_the_number_of_workers_does_not_matter(folder, without_workers, workers):
    before, lines = shared_blocks(), []
    got = take(30, settings(folder, workers=workers), start=11, report=lines.append)
    assert_equal(got, without_workers[11:41])
    assert {line.split("/")[-1].split(":")[0] for line in lines} == {"damaged.jpg", "small.png"}
    assert not multiprocessing.active_children()
    # What other tests hold at the same time goes when they end; what was lost stays.
    lost, deadline = shared_blocks() - before, time.monotonic() + 60
    while lost := lost & shared_blocks():
        assert time.monotonic() < deadline, lost
        time.sleep(0.2)


def shared_blocks():
    """Names of the blocks of shared memory that Python programs hold."""
    return {name for name in os.listdir("/dev/shm") if name.startswith("psm_")}


_TRAINER = """
import hashlib, os, sys
from tests.data.test_workers import settings
from tvt_jax.data.pipeline import batches

if __name__ == "__main__":
    print(os.getpid(), flush=True)
    with batches(settings(sys.argv[1], workers=int(sys.argv[2])), 0, 0, process=(0, 1)) as stream:
        for batch in stream:
            print(stream.position, hashlib.sha256(batch["hr"].tobytes()).hexdigest(), flush=True)
"""


@pytest.mark.parametrize("batch", [pytest.param(1, marks=pytest.mark.slow), 23])
def test_a_killed_run_continues_exactly(folder, without_workers, tmp_path, batch):
    """SIGKILL after some batches; a run with other workers gives the next 100 of the first one."""
    script = tmp_path / "trainer.py"
    script.write_text(_TRAINER)
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder), "2"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    lines = [process.stdout.readline() for _ in range(batch + 1)]
    children = _children(process.pid)
    assert len(children) >= 2
    process.kill()
    process.wait()
    position = int(lines[-1].split()[0])
    assert position == batch
    assert_equal(take(100, settings(folder), start=position), without_workers[batch : batch + 100])
    deadline = time.monotonic() + 20
    while any(_alive(child) for child in children):  # nobody waits for a dead parent
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _children(pid: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, fields = status.read_text().rsplit(")", 1)
        except OSError:
            continue
        if int(fields.split()[1]) == pid:
            found.append(int(name.split()[0]))
    return found


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_signals_to_the_whole_job_leave_the_workers_alive(folder, without_workers):
    """And what was handed out stays as it was; and each worker's algebra keeps to one thread."""
    with batches(settings(folder, workers=1), 0, 0, process=(0, 1)) as stream:
        got = [next(stream) for _ in range(3)]
        kept = [batch["hr"].copy() for batch in got]
        (child,) = multiprocessing.active_children()
        environment = Path(f"/proc/{child.pid}/environ").read_bytes().split(b"\0")
        os.kill(child.pid, signal.SIGINT)
        os.kill(child.pid, signal.SIGTERM)
        got += [next(stream) for _ in range(20)]
    assert_equal(got, without_workers[:23])
    for batch, copy in zip(got, kept, strict=False):
        np.testing.assert_array_equal(batch["hr"], copy)
    assert b"OMP_NUM_THREADS=1" in environment and b"OPENBLAS_NUM_THREADS=1" in environment


def test_errors_of_workers_are_one_clear_line(folder):
    with pytest.raises(UserError, match="50 images in a row cannot be used"):
        take(1, settings(folder, workers=1, crop=64))


def test_shared_memory_that_does_not_suffice_is_named(folder, monkeypatch):
    import shutil
    from types import SimpleNamespace

    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**26))
    with pytest.raises(UserError, match="MiB in /dev/shm and it has 64; start the container"):
        take(1, settings(folder, workers=8, crop=512, batch_size=64))
