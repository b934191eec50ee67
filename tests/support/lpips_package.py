"""The PyTorch package `lpips` on the project's real weights: the reference for LPIPS.

The package takes the layout of its trunks from torchvision, which nothing else here needs: a
stand-in with the two networks' convolutional parts is imported in its place.
"""

import functools
import importlib
import sys
import types

import safetensors.torch
import torch
from torch.nn import Conv2d, MaxPool2d, ReLU, Sequential

from tvt_jax.weights.lpips import load_lpips, lpips_folder


def _vgg16() -> Sequential:
    layers, inputs = [], 3
    for width in "64 64 M 128 128 M 256 256 256 M 512 512 512 M 512 512 512 M".split():
        if width == "M":
            layers.append(MaxPool2d(kernel_size=2, stride=2))
        else:
            layers += [Conv2d(inputs, int(width), 3, padding=1), ReLU(inplace=True)]
            inputs = int(width)
    return Sequential(*layers)


def _alexnet() -> Sequential:
    return Sequential(
        Conv2d(3, 64, 11, stride=4, padding=2), ReLU(inplace=True), MaxPool2d(3, 2),
        Conv2d(64, 192, 5, padding=2), ReLU(inplace=True), MaxPool2d(3, 2),
        Conv2d(192, 384, 3, padding=1), ReLU(inplace=True),
        Conv2d(384, 256, 3, padding=1), ReLU(inplace=True),
        Conv2d(256, 256, 3, padding=1), ReLU(inplace=True), MaxPool2d(3, 2),
    )  # fmt: skip


TORCHVISION = {"vgg16": _vgg16, "alexnet": _alexnet}
PACKAGE_NAMES = {"vgg16": "vgg", "alexnet": "alex"}


def import_lpips() -> types.ModuleType:
    """Imports the package without torchvision."""
    models = types.ModuleType("torchvision.models")
    for net, make in TORCHVISION.items():
        setattr(models, net, lambda pretrained, m=make: types.SimpleNamespace(features=m()))
    torchvision = types.ModuleType("torchvision")
    torchvision.models = models
    stand_ins = {"torchvision": torchvision, "torchvision.models": models}
    before = {name: sys.modules.get(name) for name in stand_ins}
    sys.modules.update(stand_ins)
    try:
        return importlib.import_module("lpips")
    finally:
        for name, module in before.items():
            del sys.modules[name]
            if module is not None:
                sys.modules[name] = module


@functools.cache
def trunk_state(net: str) -> dict[str, torch.Tensor]:
    """torchvision's state dict without its classifier, from the user's cache."""
    load_lpips(net)  # says which command makes it, if it is missing
    tensors = safetensors.torch.load_file(lpips_folder(net) / "model.safetensors")
    return {name: tensor for name, tensor in tensors.items() if name.startswith("features.")}


@functools.cache
def reference_lpips(net: str) -> torch.nn.Module:
    """The package's module with its own linear layers and the real trunk."""
    module = import_lpips().LPIPS(net=PACKAGE_NAMES[net], pnet_rand=True, verbose=False)
    trunk = trunk_state(net)
    for name, layer in module.net.named_modules():
        if isinstance(layer, Conv2d):
            number = name.split(".")[1]  # slice2.5 is torchvision's features.5
            layer.weight.data = trunk[f"features.{number}.weight"]
            layer.bias.data = trunk[f"features.{number}.bias"]
    return module.eval()
