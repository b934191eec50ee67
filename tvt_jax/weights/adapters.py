"""Low-rank adapters in PyTorch's layout: merged into a state dict, or in a file of their own.

The file is diffusers' `pytorch_lora_weights.safetensors`, beside the weights of its network:

    unet = UNet2DConditionModel.from_pretrained(folder)
    unet.load_lora_adapter(folder, prefix="unet", weight_name="pytorch_lora_weights.safetensors")
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from tvt_jax.config import LoRAConfig
from tvt_jax.errors import UserError
from tvt_jax.weights.names import TorchTensor
from tvt_jax.weights.tensor_files import Tensors, open_tensors, read_metadata, save_tensors

ADAPTER_FILE = "pytorch_lora_weights.safetensors"
_METADATA = "lora_adapter_metadata"  # diffusers' key for rank and alpha

# Matrices (A, B) in PyTorch's layout: [rank, in (, kh, kw)] and [out, rank (, 1, 1)].
Pair = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Adapters:
    """The adapters of a network.

    Attributes:
      config: their rank and scale.
      layers: name of a layer -> its matrices.
    """

    config: LoRAConfig
    layers: Mapping[str, Pair]

    def scaled(self, strength: float) -> "Adapters":
        """The same at another strength; 1 is as it is."""
        alpha = strength * self.config.alpha
        return dataclasses.replace(self, config=dataclasses.replace(self.config, alpha=alpha))


def merged_tensors(base: Tensors, *adapters: Adapters) -> Tensors:
    """Adds adapters to the weights of a state dict, lazily."""

    def read(name: str) -> np.ndarray:
        value = base[name]
        layer = name.removesuffix(".weight")
        for each in adapters if layer != name else ():
            if layer in each.layers:
                a, b = (np.asarray(matrix, np.float32) for matrix in each.layers[layer])
                # [out, rank (, 1, 1)] x [rank, in (, kh, kw)]
                product = b.reshape(b.shape[0], -1) @ a.reshape(a.shape[0], -1)
                product = each.config.scale * product.reshape(value.shape)
                value = np.asarray(value, np.float32) + product
        return value

    return Tensors(base.source, {name: base.shape(name) for name in base}, read)


def adapter_shapes(weight: tuple[int, ...], rank: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the matrices "A" and "B" of a layer whose weight has the shape `weight`."""
    return {"A": (rank, *weight[1:]), "B": (weight[0], rank, *(1 for _ in weight[2:]))}


def split_trained_params(
    trained: Any, table: Mapping[tuple, TorchTensor], config: LoRAConfig
) -> tuple[dict[str, np.ndarray], Adapters]:
    """Converts the trained parameters of a network with adapters.

    Args:
      trained: pure state of adapters and of parameters that were trained in full; host arrays.
      table: of the network, by `names.torch_tensors`.
      config: rank and scale of the adapters.

    Returns: (state dict of the parameters that were trained in full, adapters).
    """
    full, sides = {}, {}
    for path, value in nnx.to_flat_state(trained):
        if path in table:
            full[table[path].name] = np.ascontiguousarray(table[path].to_torch(np.asarray(value)))
        else:
            *layer, side = path
            # [in, rank] and [kh, kw, in, rank] here.
            axes = (1, 0) if value.ndim == 2 else (3, 2, 0, 1)
            matrix = np.ascontiguousarray(np.asarray(value).transpose(axes))
            sides.setdefault(".".join(map(str, layer)), {})[side] = matrix
    layers = {layer: (pair["lora_a"], pair["lora_b"]) for layer, pair in sides.items()}
    return full, Adapters(config, layers)


def save_adapters(folder: Path, prefix: str, adapters: Adapters) -> None:
    """Writes adapters beside the weights of their network.

    Args:
      folder: the network's own folder.
      prefix: diffusers' prefix of the names: "unet".

    Raises:
      UserError: the disk is full or the folder cannot be written.
    """
    arrays = {
        f"{prefix}.{layer}.lora_{side}.weight": np.asarray(matrix, np.float32)
        for layer, pair in adapters.layers.items()
        for side, matrix in zip("AB", pair, strict=True)
    }
    values = {
        f"{prefix}.r": adapters.config.rank,
        f"{prefix}.lora_alpha": adapters.config.alpha,
        f"{prefix}.target_modules": sorted(adapters.layers),
    }
    save_tensors(folder / ADAPTER_FILE, arrays, {_METADATA: json.dumps(values, sort_keys=True)})


def load_adapters(folder: Path, prefix: str, base: Tensors) -> Adapters:
    """Reads the adapters beside a network's weights, if there are any.

    Args:
      folder: the network's own folder.
      prefix: as in `save_adapters`.
      base: its state dict.

    Raises:
      UserError: the file is damaged, or its adapters do not fit the network.
    """
    path = folder / ADAPTER_FILE
    if not path.is_file():
        return Adapters(LoRAConfig(0), {})
    tensors = open_tensors(path)
    try:
        values = json.loads(read_metadata(path)[_METADATA])
        config = LoRAConfig(int(values[f"{prefix}.r"]), float(values[f"{prefix}.lora_alpha"]))
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"{path} does not say rank and alpha of its adapters ({_METADATA}); "
            "remove it, or merge it with the program that made it."
        ) from error
    layers = sorted({n.rsplit(".lora_", 1)[0].removeprefix(f"{prefix}.") for n in tensors})
    expected = {
        f"{prefix}.{layer}.lora_{side}.weight": shape
        for layer in layers
        if f"{layer}.weight" in base
        for side, shape in adapter_shapes(base.shape(f"{layer}.weight"), config.rank).items()
    }
    found = {name: tensors.shape(name) for name in tensors}
    if found != expected:
        wrong = sorted({n for n in {*found, *expected} if found.get(n) != expected.get(n)})
        raise UserError(f"{path} does not fit {base.source}: {', '.join(wrong)}.")
    pairs = {
        layer: tuple(tensors[f"{prefix}.{layer}.lora_{side}.weight"] for side in "AB")
        for layer in layers
    }
    return Adapters(config, pairs)
