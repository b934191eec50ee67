"""The command killed in the middle of its work, and what it compiles: processes of their own."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tvt_jax.images import write_image

TILES = ("--tile", "160", "--tile-overlap", "32")
pytestmark = pytest.mark.slow


def run(model, source, target, *options, cache=None, wait=True):
    """`python -m tvt_jax.infer`; its output where it is waited for."""
    command = [sys.executable, "-m", "tvt_jax.infer", "--model", str(model)]
    command += ["--input", str(source), "--output", str(target), "--scale", "2", *options]
    environment = {**os.environ, "XLA_FLAGS": ""}  # compiled as for users
    if cache is not None:
        environment |= {
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
    if wait:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, stdout=quiet, stderr=quiet, env=environment)


def photograph(width, height, seed=0):
    """A gradient with noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    colors = 200 * np.stack([x, y, (x + y) / 2], -1)
    return np.clip(colors + rng.normal(20, 20, colors.shape), 0, 255).astype(np.uint8)


def kill_when(process, condition):
    """SIGKILL as soon as the condition holds, while the process still works."""
    limit = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < limit
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_a_large_image_goes_on_where_it_was_killed(local_model, tmp_path):
    source = tmp_path / "photograph.png"
    write_image(source, photograph(300, 200))
    run(local_model, source, tmp_path / "straight.png", *TILES)
    target = tmp_path / "killed.png"
    unfinished = tmp_path / ".killed.png.unfinished"

    def done():
        try:
            with np.load(unfinished / "0" / "state.npz") as saved:
                return int(saved["sweep"]), int(saved["tiles"])
        except OSError:
            return 0, 0

    for at in ((0, 3), (1, 2), (1, 9)):
        process = run(local_model, source, target, *TILES, wait=False)
        kill_when(process, lambda at=at: done() >= at)
        assert not target.exists()
    said = run(local_model, source, target, *TILES)
    assert f"going on where {unfinished}" in said
    assert target.read_bytes() == (tmp_path / "straight.png").read_bytes()
    assert not unfinished.exists()


@pytest.mark.parametrize("options", [(), ("--skip-existing",)])
def test_a_folder_that_was_killed_is_completed(local_model, tmp_path, options):
    for number in range(5):
        write_image(tmp_path / "in" / f"{number}.png", photograph(150 + number, 140, number))
    run(local_model, tmp_path / "in", tmp_path / "straight")
    killed = tmp_path / "killed"
    process = run(local_model, tmp_path / "in", killed, *options, wait=False)
    kill_when(process, (killed / "1.png").exists)
    run(local_model, tmp_path / "in", killed, *options)
    want = {path.name: path.read_bytes() for path in (tmp_path / "straight").iterdir()}
    assert len(want) == 5
    assert {path.name: path.read_bytes() for path in killed.glob("*.png")} == want


def test_a_second_process_compiles_nothing(local_model, tmp_path):
    cache, programs = tmp_path / "cache", []
    for width, height in ((300, 170), (231, 190)):
        source = tmp_path / f"{width}.png"
        write_image(source, photograph(width, height))
        run(local_model, source, tmp_path / f"{width}_x2.png", *TILES, cache=cache)
        programs.append({path.name for path in cache.glob("*-cache")})
    assert programs[0] and programs[1] == programs[0]
