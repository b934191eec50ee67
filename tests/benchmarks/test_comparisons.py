"""What is run by hand beside PyTorch on a GPU, small and on a CPU."""

import json
import subprocess
import sys

import pytest


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
