"""`doctor` finds nothing in a sound installation, and names what is wrong in others."""

import importlib.metadata
import shutil
import types
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy

from tvt_jax import diagnosis
from tvt_jax.bundled import SMALL_MODEL
from tvt_jax.doctor import doctor
from tvt_jax.errors import UserError

ROOT = Path(__file__).parent.parent


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of its own, with LPIPS's folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "cache" / "tvt_jax"
    (folder / "lpips" / "vgg16").mkdir(parents=True)
    (folder / "xla").mkdir()
    (folder / "xla" / "program").write_bytes(bytes(3 * 2**20))
    return folder


def advice(findings):
    return [finding.text for finding in findings if finding.advice]


def test_a_sound_installation_has_no_problems(cache, capsys):
    doctor()
    out = capsys.readouterr().out
    for said in (
        "flax ",
        "1 x cpu",
        "--dtype auto is float32",
        "blockwise (VAE-D8)",
        "free memory",
    ):
        assert said in out
    assert "xla: 3 MiB" in out and "unet: 322 tensors, float16, SHA-256 " in out
    assert "->" not in out


def test_the_tested_pairs_are_those_of_the_requirements():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    for first, marker in (((3, 11), "<"), ((3, 12), ">=")):
        for name, version in diagnosis.TESTED[first].items():
            assert f'{name}=={version}; python_version {marker} "3.12"' in lines


def test_other_versions_are_named(monkeypatch):
    real = importlib.metadata.version
    fake = {"jax": "0.9.0", "jaxlib": "0.8.1"}
    monkeypatch.setattr(importlib.metadata, "version", lambda name: fake.get(name) or real(name))
    pair, differ = advice(diagnosis.versions())
    assert "jax 0.9.0: not the tested pair" in pair and differ == "jax and jaxlib differ"


def test_packages_that_are_missing_are_named(monkeypatch):
    real = importlib.metadata.version

    def version(name):
        if name == "grain":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert advice(diagnosis.versions()) == ["grain: not installed by pip"]


def test_devices_that_jax_cannot_use_are_named(monkeypatch):
    def fail():
        raise RuntimeError("Unable to initialize backend 'cuda'\nmore")

    monkeypatch.setattr(jax, "devices", fail)
    (finding,) = diagnosis.devices()
    assert finding.text.endswith("'cuda'") and "JAX_PLATFORMS=cpu" in finding.advice


def test_a_gpu_is_described(monkeypatch):
    gpu = types.SimpleNamespace(platform="gpu", device_kind="NVIDIA T4", compute_capability="7.5")
    monkeypatch.setattr(jax, "devices", lambda: [gpu] * 2)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(diagnosis, "free_memory", lambda: None)
    texts = [finding.text for finding in diagnosis.devices()]
    assert texts[:2] == ["2 x NVIDIA T4 (gpu)", "--dtype auto is float32"]


def spoil(folder, part, change):
    path = folder / part / "diffusion_pytorch_model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    change(tensors)
    safetensors.numpy.save_file(tensors, path)


def set_nan(tensors):
    tensors["conv_out.bias"] = np.full_like(tensors["conv_out.bias"], np.nan)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda m: (m / "model_index.json").unlink(), "not a model folder"),
        (lambda m: shutil.rmtree(m / "vae"), "has no config.json"),
        (lambda m: shutil.rmtree(m / "scheduler"), "scheduler_config.json"),
        (lambda m: (m / "prompt_embeds.safetensors").write_bytes(b"x"), "prompt_embeds"),
        (lambda m: spoil(m, "unet", set_nan), "conv_out.bias has values that are not finite"),
        (lambda m: spoil(m, "unet", lambda t: t.pop("conv_in.bias")), "conv_in.bias"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_model_is_named(damage, said, cache, tmp_path, capsys):
    model = tmp_path / "model"
    shutil.copytree(SMALL_MODEL, model)
    damage(model)
    with pytest.raises(UserError, match="1 problem; see"):
        doctor(model)
    assert said in capsys.readouterr().out


def test_caches_are_removed_on_request(cache, capsys):
    doctor(clear_cache=True)
    assert not any(cache.iterdir())
    assert f"removed {cache / 'xla'}" in capsys.readouterr().out
    doctor()  # weights that upscaling does not need are no problem
    assert "no weights of LPIPS" in capsys.readouterr().out
