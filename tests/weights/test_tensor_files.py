"""Reading weight files: formats, damage, and pickles that would run code."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch

from tvt_jax.errors import UserError
from tvt_jax.weights.tensor_files import load_pickle, open_network_tensors, open_tensors

STEM = "diffusion_pytorch_model"
STATE = {"a.weight": torch.randn(3, 4), "b.bias": torch.randn(5).to(torch.bfloat16)}


def check(tensors):
    assert set(tensors) == set(STATE)
    assert tensors.shape("a.weight") == (3, 4)
    np.testing.assert_array_equal(tensors["a.weight"], STATE["a.weight"].numpy())
    assert tensors["b.bias"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(
        tensors["b.bias"].astype(np.float32), STATE["b.bias"].float().numpy()
    )


def save(path):
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(STATE, path)
    else:
        torch.save(STATE, path)


def write_sharded(folder, suffix, index_name, shard_name):
    weight_map = {}
    for number, (name, tensor) in enumerate(STATE.items(), 1):
        shard = shard_name.format(number)
        weight_map[name] = shard
        if suffix == "safetensors":
            safetensors.torch.save_file({name: tensor}, folder / shard)
        else:
            torch.save({name: tensor}, folder / shard)
    (folder / index_name).write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize("suffix", [".safetensors", ".bin", ".ckpt", ".pkl", ".pth", ".pt"])
def test_single_files(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    save(path)
    check(open_tensors(path))


def test_a_file_that_is_replaced_while_it_is_read_is_named(tmp_path):
    path = tmp_path / "weights.safetensors"
    save(path)
    tensors = open_tensors(path)
    tensors["a.weight"]
    safetensors.torch.save_file({"a.weight": torch.zeros(3, 4)}, tmp_path / "other")
    (tmp_path / "other").rename(path)
    for name in STATE:
        with pytest.raises(UserError, match="weights.safetensors was changed while it was read"):
            tensors[name]
    path.unlink()
    with pytest.raises(UserError, match="was changed"):
        tensors["a.weight"]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/maps")
def test_what_was_read_stays_mapped_no_longer(tmp_path):
    path = tmp_path / "weights.safetensors"
    save(path)
    tensors = open_tensors(path)
    tensors["a.weight"]
    assert str(path) not in Path("/proc/self/maps").read_text()


def test_old_pickles_are_read(tmp_path):
    path = tmp_path / "old.pth"
    torch.save(STATE, path, _use_new_zipfile_serialization=False)
    check(open_tensors(path))


@pytest.mark.parametrize(
    "name",
    [f"{STEM}.safetensors", f"{STEM}.fp16.safetensors", f"{STEM}.bin", f"{STEM}.fp16.bin",
     "pytorch_model.bin"],
)  # fmt: skip
def test_network_folders(tmp_path, name):
    save(tmp_path / name)
    check(open_network_tensors(tmp_path, STEM))


@pytest.mark.parametrize(
    ("suffix", "index", "shard"),
    [
        ("safetensors", f"{STEM}.safetensors.index.json", STEM + "-0000{}-of-00002.safetensors"),
        (
            "safetensors",
            f"{STEM}.safetensors.index.fp16.json",
            STEM + ".fp16-0000{}-of-00002.safetensors",
        ),
        ("bin", f"{STEM}.bin.index.json", STEM + "-0000{}-of-00002.bin"),
    ],
)
def test_sharded_folders(tmp_path, suffix, index, shard):
    write_sharded(tmp_path, suffix, index, shard)
    check(open_network_tensors(tmp_path, STEM))


def test_safetensors_go_before_pickles_and_full_precision_before_variants(tmp_path):
    save(tmp_path / f"{STEM}.safetensors")
    safetensors.torch.save_file({"x": torch.ones(1)}, tmp_path / f"{STEM}.fp16.safetensors")
    torch.save({"y": torch.ones(1)}, tmp_path / f"{STEM}.bin")
    check(open_network_tensors(tmp_path, STEM))


def test_a_lost_shard_is_named(tmp_path):
    shard = STEM + "-0000{}-of-00002.safetensors"
    write_sharded(tmp_path, "safetensors", f"{STEM}.safetensors.index.json", shard)
    (tmp_path / shard.format(2)).unlink()
    with pytest.raises(UserError, match="lacks .*00002-of-00002"):
        open_network_tensors(tmp_path, STEM)


def test_a_shard_that_contradicts_the_index_is_named(tmp_path):
    shard = STEM + "-0000{}-of-00002.safetensors"
    write_sharded(tmp_path, "safetensors", f"{STEM}.safetensors.index.json", shard)
    safetensors.torch.save_file({"c.weight": torch.ones(1)}, tmp_path / shard.format(2))
    with pytest.raises(UserError, match="b.bias, c.weight|c.weight, b.bias"):
        open_network_tensors(tmp_path, STEM)


@pytest.mark.parametrize("suffix", [".safetensors", ".bin", ".ckpt"])
@pytest.mark.parametrize("keep", [0, 7, 100, -40])
def test_truncated_files_are_refused(tmp_path, suffix, keep):
    path = tmp_path / f"weights{suffix}"
    save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match="download it again") as error:
        open_tensors(path)
    assert "\n" not in str(error.value)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        open_tensors(tmp_path / "none.safetensors")
    with pytest.raises(UserError, match="is a folder"):
        open_tensors(tmp_path)
    with pytest.raises(UserError, match="no weights"):
        open_network_tensors(tmp_path, STEM)


class RunsCode:
    """Unpickling this would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_is_refused(tmp_path, zipped):
    proof, path = tmp_path / "it_ran", tmp_path / "evil.ckpt"
    torch.save(
        {"state_dict": STATE, "extra": RunsCode(proof)}, path, _use_new_zipfile_serialization=zipped
    )
    with pytest.raises(UserError, match="refused: it is a pickle that could run code") as error:
        load_pickle(path)
    assert "open" in str(error.value)
    assert not proof.exists()


def test_a_plain_pickle_that_would_run_code_is_refused(tmp_path):
    proof, path = tmp_path / "it_ran", tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps(RunsCode(proof)))
    with pytest.raises(UserError):
        load_pickle(path)
    assert not proof.exists()


# A Lightning checkpoint as its trainer wrote it: classes of the trainer among the tensors.
WRITE_LIGHTNING = """
import sys, types, torch
import numpy as np
module = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")
class ModelCheckpoint: pass
ModelCheckpoint.__module__ = module.__name__
module.ModelCheckpoint = ModelCheckpoint
for name in ("pytorch_lightning", "pytorch_lightning.callbacks"):
    sys.modules[name] = types.ModuleType(name)
sys.modules[module.__name__] = module
torch.save({
    "callbacks": {ModelCheckpoint: {"best": ModelCheckpoint(), "score": np.float64(0.5)}},
    "state_dict": {"w": torch.ones(2)},
}, sys.argv[1])
"""


def test_objects_of_the_trainer_are_read_as_nothing(tmp_path):
    path = tmp_path / "lightning.ckpt"
    subprocess.run([sys.executable, "-c", WRITE_LIGHTNING, str(path)], check=True)
    content = load_pickle(path)
    assert content["state_dict"]["w"].tolist() == [1.0, 1.0]
    assert "pytorch_lightning" not in sys.modules


def test_reading_a_pickle_without_pytorch_says_what_to_install(tmp_path, monkeypatch):
    save(tmp_path / "weights.bin")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match="pip install"):
        open_tensors(tmp_path / "weights.bin")


def test_a_state_dict_of_something_else_is_refused(tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UserError, match="not a state dict"):
        open_tensors(tmp_path / "list.pth")
    torch.save({"a": 1}, tmp_path / "number.pth")
    with pytest.raises(UserError, match="more than tensors: a"):
        open_tensors(tmp_path / "number.pth")
