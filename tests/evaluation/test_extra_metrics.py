"""`--extra-metrics` with a package in the place of pyiqa, and self-made weights."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tvt_jax import evaluate
from tvt_jax.errors import UserError
from tvt_jax.evaluation.extra_metrics import EXTRA_METRICS, ExtraMetrics
from tvt_jax.evaluation.paper_tables import paper_rows

MUSIQ = "hub/pyiqa/musiq_koniq_ckpt-e95806b9.pth"
# Prints as pyiqa does, changes its input, reads weights, and wants a file that is not there.
STUB = """
import os
import torch

class Metric:
    def __init__(self, name, factor):
        self.name, self.factor = name, factor
        self.metric_mode = "FR" if name == "afine_fr" else "NR"

    def __call__(self, image, reference=None):
        if self.metric_mode == "FR":
            assert reference is not None
        value = self.factor * (image if reference is None else image - reference).mean()
        image.zero_()
        return value

def create_metric(name, device):
    print("Loading pretrained model")
    if name == "hyperiqa":
        torch.hub.download_url_to_file("https://example.org/HyperIQA.pth", "x")
    file = {"musiq": "musiq_koniq_ckpt-e95806b9.pth", "afine_fr": "afine.pth"}[name]
    return Metric(name, torch.load(os.path.join(os.environ["TORCH_HOME"], "hub/pyiqa", file)))
"""


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """(pred, ref, weights): two pairs of images, and all files of the metrics."""
    import torch

    rng = np.random.default_rng(0)
    for name in ("pred", "ref"):
        (tmp_path / name).mkdir()
        for image in "ab":
            pixels = rng.integers(0, 256, (32, 40, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{image}.png")
    weights = tmp_path / "weights"
    files = {weights / file for extra in EXTRA_METRICS.values() for file in extra.files}
    monkeypatch.setenv("HOME", str(tmp_path))
    for file in {*files, tmp_path / ".cache/clip/ViT-B-32.pt"}:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(torch.tensor(100.0), file)
    stub = tmp_path / "stub"
    (stub / "pyiqa").mkdir(parents=True)
    (stub / "pyiqa" / "__init__.py").write_text(STUB)
    (stub / "pyiqa-9.9.dist-info").mkdir()
    (stub / "pyiqa-9.9.dist-info" / "METADATA").write_text("Name: pyiqa\nVersion: 9.9\n")
    monkeypatch.setenv("PYTHONPATH", str(stub))
    return tmp_path / "pred", tmp_path / "ref", weights


def test_values_stand_beside_the_others(folders, tmp_path, capsys):
    pred, ref, weights = folders
    evaluate.images(
        pred, ref, metrics="psnr", extra_metrics="musiq, afine_fr,hyperiqa",
        extra_python=Path(sys.executable), extra_weights=weights, output=tmp_path / "out",
    )  # fmt: skip
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0] == "| PSNR ↑ | MUSIQ ↑ | AFINE-FR ↓ | HyperIQA ↑ |"
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    for row in report["images"]:
        a, b = (np.array(Image.open(f / f"{row['name']}.png")) / 255 for f in (pred, ref))
        assert abs(row["musiq"] - 100 * a.mean()) < 1e-4
        assert abs(row["afine_fr"] - 100 * (a - b).mean()) < 1e-4 and row["hyperiqa"] is None
    assert report["mean"]["hyperiqa"] is None and report["mean"]["musiq"] > 1
    (note,) = report["notes"]
    assert note == (
        "no hyperiqa: RuntimeError: https://example.org/HyperIQA.pth is not on this machine"
    )
    assert f"note: {note}" in printed.err
    assert report["versions"]["pyiqa"] == "9.9" and report["versions"]["torch"]
    assert len(report["weights"]["musiq_koniq_ckpt-e95806b9.pth"]) == 64


def test_the_papers_columns_have_these_names():
    assert set(EXTRA_METRICS) <= set(paper_rows("realsr")["TVT-s1"])


def test_what_is_missing_is_one_line(folders, tmp_path, monkeypatch):
    _, _, weights = folders
    python = Path(sys.executable)

    def fails(match, metrics=("musiq",), python=python, weights=weights):
        with pytest.raises(UserError, match=match):
            ExtraMetrics(metrics, python, weights)

    fails("`extra_metrics`: fid is unknown; choose from afine_fr, .*musiq", ("musiq", "fid"))
    fails("`extra_python`  must be the Python of an environment with pyiqa", python=None)
    fails("`extra_python` nowhere/python must be", python=Path("nowhere/python"))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    (weights / MUSIQ).unlink()
    (tmp_path / ".cache/clip/ViT-B-32.pt").unlink()
    with pytest.raises(UserError) as error:
        ExtraMetrics(("musiq", "afine_nr", "qalign", "topiq_nr"), python, weights)
    for name in (MUSIQ, ".cache/clip/ViT-B-32.pt", "hub/models--q-future--one-align"):
        assert name in str(error.value)
    assert "cfanet" not in str(error.value) and "\n" not in str(error.value)


def test_a_process_that_fails_is_one_line(folders, tmp_path, monkeypatch):
    pred, ref, weights = folders
    pairs = [(pred / "a.png", ref / "a.png")]
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no memory >&2\nexit 3\n")
    broken.chmod(0o755)
    with pytest.raises(UserError, match=r"ended with status 3 \(no memory\)"):
        ExtraMetrics(("musiq",), broken, weights).measure(pairs, quiet=True)
    broken.chmod(0o644)
    with pytest.raises(UserError, match="does not start"):
        ExtraMetrics(("musiq",), broken, weights).measure(pairs, quiet=True)
    (tmp_path / "stub" / "pyiqa" / "__init__.py").write_text("import no_such_package\n")
    with pytest.raises(UserError, match="cannot import pyiqa: ModuleNotFoundError: .*no_such_pac"):
        ExtraMetrics(("musiq",), Path(sys.executable), weights).measure(pairs, quiet=True)
