"""A training stage as the loop sees it: functions and metadata, no weights."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from tvt_jax.config import OptimConfig
from tvt_jax.errors import UserError
from tvt_jax.images import to_float

Tree = Any


@dataclasses.dataclass(frozen=True)
class Stage:
    """A training stage, as the loop sees it.

    Its parameters are passed beside it, in two trees keyed by network: `params` are trained,
    `frozen` never change. `make_stage` of a stage's module returns all three.

    Attributes:
      optim: the optimizer's settings of each trained network ("vae", "discriminator").
      gradients: pure function (params, frozen, batch, key, step) -> (gradients keyed as `params`,
        metrics). Metrics are float32 scalars with the total under "loss". Images of a batch are
        [B, H, W, 3] uint8, or float32 in [-1, 1].
      preview: pure function (params, frozen, batch) -> images [B, H, W, 3] float32, the networks'
        output for a validation batch.
      exports: networks that are the run's result.
      export: writes them to a folder, (their params, their frozen parameters, folder); host arrays.
      result: where in the run's folder the result goes.
      trained: names of the trained parameters of each network.
      read: settings that were read from the networks' folders, JSON values by dotted name; a
        resumed run must read the same.
      notes: lines for the user.
      inputs: the arrays of a batch that it reads.
      without_lr: advice appended to the error message for a run without low resolution.
      preview_of: the image of a batch that is the input of `preview`.
      tokenizer: folder of the tokenizer for a batch's prompts; empty: none.
    """

    optim: Mapping[str, OptimConfig]
    gradients: Callable[..., tuple[dict[str, Tree], dict[str, jax.Array]]]
    preview: Callable[..., jax.Array]
    exports: tuple[str, ...]
    export: Callable[[dict[str, Tree], dict[str, Tree], Path], None]
    result: Path
    trained: Mapping[str, tuple[str, ...]]
    read: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ("hr",)
    without_lr: str = ""
    preview_of: str = "hr"
    tokenizer: str = ""


def takes_uint8(function: Callable[..., Any]) -> Callable[..., Any]:
    """Lets a stage's method take images as uint8: a quarter of the bytes to transfer.

    Args:
      function: method (self, params, frozen, batch, ...) that takes images as float32 in [-1, 1].
    """

    @functools.wraps(function)
    def run(self, params, frozen, batch, *rest):
        batch = {name: to_float(x) if x.dtype == np.uint8 else x for name, x in batch.items()}
        return function(self, params, frozen, batch, *rest)

    return run


def split_trained(
    module: nnx.Module, parts: tuple[str, ...], setting: str = "trained"
) -> tuple[nnx.GraphDef, Tree, Tree, tuple[str, ...]]:
    """Separates trained parameters (adapters, and parts by name) from frozen ones.

    Args:
      module: the network, real or abstract. Its low-rank adapters are trained.
      parts: dotted prefixes of what else is trained, for example "encoder" or "decoder.conv_out".
      setting: of the configuration that they come from.

    Returns: (graph for `nnx.merge(graph, trained, frozen)`, trained, frozen, trained names).
    Raises:
      UserError: a part does not exist.
    """
    matched = set()

    def is_trained(path, variable):
        name = ".".join(map(str, path))
        hits = [part for part in parts if name == part or name.startswith(f"{part}.")]
        matched.update(hits)
        return bool(hits) or isinstance(variable, nnx.LoRAParam)

    graph, trained, frozen = nnx.split(module, is_trained, ...)
    unknown = [part for part in parts if part not in matched]
    if unknown:
        raise UserError(f"`config.{setting}`: this network has no {', '.join(unknown)}.")
    return graph, nnx.as_pure(trained), nnx.as_pure(frozen), parameter_names(trained)


def parameter_names(tree: Tree) -> tuple[str, ...]:
    """Dotted names of a network's parameters."""
    return tuple(".".join(map(str, path)) for path, _ in nnx.to_flat_state(tree))


def num_parameters(tree: Tree) -> int:
    """How many parameters a tree of arrays holds."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))
