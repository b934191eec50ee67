"""Comparisons by turns, and those with PyTorch, which are run by hand on a GPU, small."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.comparisons.alternating import side_speeds, take_turns

SIDE = """
import sys
from tests.comparisons.alternating import serve_side
name, log = sys.argv[1:]
calls = []

def call():
    calls.append(name)
    print("a library talks")
    with open(log, "a") as file:
        file.write(name)
    if name == "b" and len(calls) == 3:
        raise RuntimeError("broken")

figures = {"device": "cpu", "peak": 7, "compile_seconds": 1.0}
if name == "jax":
    figures |= {"flops": 2e9, "matmul_rate": 1e12, "devices": 1, "held": 5, "needed": None}
serve_side(lambda: (call, lambda: figures), rounds=2)
"""


def test_sides_take_turns_and_one_that_fails_costs_no_other(tmp_path, monkeypatch):
    (tmp_path / "stub_side.py").write_text(SIDE)
    log = str(tmp_path / "log")
    sides = {name: [name, log] for name in ("jax", "b", "c")}
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    monkeypatch.setenv("PYTHONPATH", path)
    results = take_turns("stub_side", sides, rounds=2, environment={})
    ours, none, others = (results[name] for name in ("jax", "b", "c"))
    assert Path(log).read_text() == "jaxbc" * 3 + "jaxc" and none is None
    assert len(ours["times"]) == len(others["times"]) == 2
    speeds = side_speeds(results, "64 px", batch_size=4)
    assert [speed.what for speed in speeds] == ["jax, 64 px", "c, 64 px"]
    assert [speed.held for speed in speeds] == [5, None]
    assert speeds[1].floor == speeds[0].floor == 2e-3 and speeds[1].batch_size == 4


def compare(module, *arguments):
    """Figures of a comparison's sides by name, and what it printed."""
    command = [sys.executable, "-m", f"tests.comparisons.{module}", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    written = json.loads(arguments[-1].read_text())
    return {row["what"].split(",")[0]: row for row in written["speeds"]}, done.stdout, written


@pytest.mark.slow
def test_a_training_step_beside_pytorch(tmp_path):
    arguments = ["--small", "--batch-sizes", 1, "--rounds", 1, "--runs", "jax", "pytorch"]
    sides, table, _ = compare("step_speed", *arguments, "--json", tmp_path / "step.json")
    assert list(sides) == ["jax", "pytorch"]
    assert all(side["images_per_second"] > 0 and 0 < side["share"] < 1 for side in sides.values())
    assert "| jax, tiny, 64 px, float32, 1 x cpu | 1 |" in table


@pytest.mark.slow
def test_restoration_beside_pytorch(tmp_path):
    arguments = ["--small", "--size", 64, "--batch-sizes", 2, "--dtype", "float32", "--rounds", 2]
    arguments += ["--runs", "jax", "pytorch", "--json", tmp_path / "infer.json"]
    sides, table, written = compare("infer_speed", *arguments)
    assert sides["jax"]["flops"] == sides["pytorch"]["flops"] > 0
    assert "| pytorch, 64 px, UNet float32, VAE float32, 1 x cpu | 2 |" in table
    for difference, magnitude in written["compared"]["2"].values():
        assert 0 < difference < 1e-4 * magnitude
