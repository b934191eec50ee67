"""Which PyTorch tensor belongs to which parameter, derived from the modules' types.

Attribute names equal PyTorch's, so no table of renamings is needed: the path of a module is the
prefix of its tensors, and the type of the module determines the layout of each tensor.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from tvt_jax.errors import UserError
from tvt_jax.models.layers import BatchNorm2d, Table

Path = tuple[str | int, ...]
# Parameter -> (PyTorch's name for it, PyTorch's axes in the order that Flax wants them).
_LEAVES = {
    nnx.Conv: {"kernel": ("weight", (2, 3, 1, 0)), "bias": ("bias", None)},
    nnx.Linear: {"kernel": ("weight", (1, 0)), "bias": ("bias", None)},
    nnx.Embed: {"embedding": ("weight", None)},
    nnx.GroupNorm: {"scale": ("weight", None), "bias": ("bias", None)},
    nnx.LayerNorm: {"scale": ("weight", None), "bias": ("bias", None)},
    BatchNorm2d: {"scale": ("weight", None), "bias": ("bias", None)},
}


@dataclasses.dataclass(frozen=True)
class TorchTensor:
    """A tensor of a PyTorch state dict.

    Attributes:
      name: its key.
      axes: the permutation from PyTorch's layout to the one here; None if they are the same.
      shape: its shape in PyTorch.
    """

    name: str
    axes: tuple[int, ...] | None
    shape: tuple[int, ...]

    def to_flax(self, array: np.ndarray) -> np.ndarray:
        """Returns a view with this project's axes."""
        return array if self.axes is None else array.transpose(self.axes)

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        """Returns a view with PyTorch's axes."""
        return array if self.axes is None else array.transpose(np.argsort(self.axes))


def torch_tensors(model: nnx.Module) -> dict[Path, TorchTensor]:
    """Maps the path of every parameter of `model` to its PyTorch tensor.

    Args:
      model: a module, real or abstract (`nnx.eval_shape`). Low-rank adapters are skipped.

    Raises:
      TypeError: a parameter belongs to a module of a type that has no PyTorch counterpart.
    """
    tensors = {}
    for path, module in nnx.iter_graph(model):
        if not isinstance(module, nnx.Module):
            continue
        for leaf, variable in vars(module).items():
            if not isinstance(variable, nnx.Param) or isinstance(variable, nnx.LoRAParam):
                continue
            rule = next((r for t, r in _LEAVES.items() if isinstance(module, t)), {}).get(leaf)
            if isinstance(variable, Table):
                rule = (leaf, None)
            if rule is None:
                raise TypeError(f"no PyTorch counterpart for {'.'.join(map(str, path))}.{leaf}")
            name, axes = rule
            shape = variable.shape
            if axes is not None:
                shape = tuple(shape[i] for i in np.argsort(axes))
            tensors[*path, leaf] = TorchTensor(".".join(map(str, (*path, name))), axes, shape)
    return tensors


def check_names_and_shapes(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], source: str
) -> None:
    """Compares the tensors of a file with those that a network needs, both ways.

    Raises:
      UserError: anything is missing, extra or of another shape; the message names all of it.
    """
    problems = []
    for title, names in (
        ("missing", [n for n in expected if n not in found]),
        ("not part of this network", [n for n in found if n not in expected]),
        (
            "of another shape",
            [
                f"{n} {tuple(found[n])} instead of {tuple(expected[n])}"
                for n in expected
                if n in found and tuple(found[n]) != tuple(expected[n])
            ],
        ),
    ):
        if names:
            problems.append(f"{len(names)} {title}: {', '.join(names)}")
    if problems:
        raise UserError(f"{source} does not fit the network of its config. {'; '.join(problems)}.")


def params_from_torch(
    model: nnx.Module, tensors: Mapping[str, np.ndarray], dtype: Any, source: str
) -> nnx.State:
    """Converts a PyTorch state dict to the parameters of a network.

    Args:
      model: abstract module (`nnx.eval_shape`) without adapters.
      tensors: PyTorch's names to arrays; read one at a time, so a lazy mapping keeps memory low.
      dtype: floating-point dtype of the result.
      source: what to call the file in an error message.

    Returns: a pure `nnx.State` of jax arrays on the default device, to be merged with the
      network's `GraphDef`.
    Raises:
      UserError: names or shapes differ in any way.
    """
    table = torch_tensors(model)
    check_names_and_shapes(
        {t.name: t.shape for t in table.values()},
        {name: _shape(tensors, name) for name in tensors},
        source,
    )
    flat = {
        path: jax.numpy.asarray(np.asarray(tensor.to_flax(tensors[tensor.name]), dtype=dtype))
        for path, tensor in table.items()
    }
    params = nnx.as_pure(nnx.from_flat_state(flat))
    assert_same_structure(params, nnx.as_pure(nnx.state(model)))
    return params


def params_to_torch(model: nnx.Module, params: nnx.State) -> dict[str, np.ndarray]:
    """Converts parameters of `model` (abstract or real) to a PyTorch state dict of numpy arrays."""
    flat = dict(nnx.to_flat_state(params))
    return {
        tensor.name: np.ascontiguousarray(tensor.to_torch(np.asarray(flat[path])))
        for path, tensor in torch_tensors(model).items()
    }


def assert_same_structure(tree: Any, expected: Any) -> None:
    """Compares two trees of arrays by path, shape and dtype.

    `nnx.merge` matches parameters by position and checks only their number, so every tree from
    outside must pass this check before it is merged.

    Raises:
      ValueError: the trees differ; the message holds the whole difference.
    """

    def described(t) -> Iterator[tuple[str, str]]:
        for path, leaf in jax.tree_util.tree_leaves_with_path(t):
            yield jax.tree_util.keystr(path), f"{tuple(leaf.shape)} {leaf.dtype}"

    got, want = dict(described(tree)), dict(described(expected))
    lines = [f"missing {k} {v}" for k, v in want.items() if k not in got]
    lines += [f"unexpected {k} {v}" for k, v in got.items() if k not in want]
    lines += [
        f"{k}: {v} instead of {want[k]}" for k, v in got.items() if k in want and want[k] != v
    ]
    if lines:
        raise ValueError("the parameters do not fit the network: " + "; ".join(lines))


def _shape(tensors: Mapping[str, np.ndarray], name: str) -> tuple[int, ...]:
    # Lazy mappings know shapes without reading the data.
    return tensors.shape(name) if hasattr(tensors, "shape") else tensors[name].shape
