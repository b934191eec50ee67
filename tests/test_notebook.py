"""The notebook for Colab: its cells run here; programs that install are replaced by recorders."""

import ast
import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.support.programs import calls, put_on_path

ROOT = Path(__file__).parent.parent
NOTEBOOK = json.loads((ROOT / "launch/colab.ipynb").read_text())
CELLS = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
INSTALL, *REST = CELLS


def as_python(cell: dict) -> str:
    """A cell's source with IPython's `!command` and `%cd folder` as calls of functions."""
    source = "".join(cell["source"]).replace("\\\n", "")
    source = re.sub(r"^( *)!(.*)$", r"\1shell(rf'''\2''')", source, flags=re.MULTILINE)
    return re.sub(r"^%cd (.*)$", r"chdir('\1')", source, flags=re.MULTILINE)


def shell(command: str) -> None:
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stderr}"


def test_the_notebook_is_stored_without_results():
    assert NOTEBOOK["nbformat"] == 4
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in CELLS)


def test_what_colab_has_is_kept(tmp_path, monkeypatch):
    put_on_path(monkeypatch, tmp_path, git='mkdir "$5"', pip="")
    monkeypatch.chdir(tmp_path)
    exec(as_python(INSTALL), {"shell": shell, "chdir": os.chdir})
    clone, install = calls(tmp_path)
    assert clone == ["git", "clone", "--depth", "1", "...", "tvt_jax"]
    assert Path.cwd() == tmp_path / "tvt_jax"
    assert install == ["pip", "install", "--quiet", ".[gpu]", "--constraint", install[-1]]
    kept = Path(install[-1]).read_text().split()
    names = ("numpy", "protobuf", "pillow", "orbax-checkpoint")
    assert kept == [f"{name}=={version(name)}" for name in names]


def test_the_accelerator_is_left_to_the_commands():
    """A TPU belongs to one process, and a process on a GPU takes three quarters of its memory."""
    for cell in CELLS:
        for node in ast.walk(ast.parse(as_python(cell))):
            names = [alias.name for alias in getattr(node, "names", [])]
            imported = [*names, getattr(node, "module", None) or ""]
            assert not [n for n in imported if n.split(".")[0] in ("jax", "tvt_jax")]


@pytest.mark.slow
def test_cells_run(small_release, tmp_path, monkeypatch):
    """In order, in one process; training is cut short, and the weights are of the small release."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    for name in ("tvt_jax", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    weights = tmp_path / "weights of the paper"
    weights.mkdir()
    (weights / "stable-diffusion-2-1-base").symlink_to(small_release.sd)
    (weights / "TVTUNet").symlink_to(small_release.tvt_unet)
    (weights / "vae.ckpt").symlink_to(small_release.vae_file)
    (weights / "model_TVT.pkl").symlink_to(small_release.tvt_file)
    shown = []
    namespace = {"shell": shell, "display": shown.append}
    for cell in REST:
        source = as_python(cell).replace('WEIGHTS = ""', f'WEIGHTS = "{weights}"')
        exec(source.replace("stage2.py:tiny", "stage2.py:tiny --config.steps=2"), namespace)
    assert namespace["beside_bicubic"]("restored.png").size == (1024, 512)
    assert [image.size for image in shown] == [(1024, 512)]
    assert namespace["records"][-1]["step"] == 2
