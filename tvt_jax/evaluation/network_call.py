"""Networks at exact precision, compiled once for each shape."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx

from tvt_jax.memory import check_fits
from tvt_jax.weights.model_folder import Network

_PROGRAMS: dict[tuple, jax.stages.Compiled] = {}


def call_network(function: Callable, network: Network, *arrays: np.ndarray) -> Any:
    """Calls `function(module, *arrays)` under jit.

    Matrix products are float32 in full: accelerators round them otherwise, and figures of different
    machines would differ.

    Args:
      function: of the module and arrays; the same object for the same computation.
      network: its structure and weights.
      arrays: the last three axes of the first are those of an image [H, W, 3].

    Raises:
      UserError: memory does not suffice.
    """
    key = (function, network.graph, *((a.shape, a.dtype.name) for a in arrays))
    if key not in _PROGRAMS:
        graph = network.graph  # not the network: programs outlive weights
        program = jax.jit(lambda params, *inputs: function(nnx.merge(graph, params), *inputs))
        with jax.default_matmul_precision("highest"):
            compiled = program.lower(network.params, *arrays).compile()
        height, width = arrays[0].shape[-3:-1]
        check_fits(compiled, f"an image of {width}x{height} px", "use smaller images")
        _PROGRAMS[key] = compiled
    return _PROGRAMS[key](network.params, *arrays)
