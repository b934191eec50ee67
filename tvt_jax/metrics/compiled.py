"""Networks at full float32 precision, compiled once per shape."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx

from tvt_jax.memory import compile_to_fit
from tvt_jax.models.networks import Network

_PROGRAMS: dict[tuple, jax.stages.Compiled] = {}


def call_compiled(function: Callable, network: Network, *arrays: np.ndarray) -> Any:
    """Calls `function(module, *arrays)` under jit.

    Matrix products are full float32: accelerators round them by default, and figures would depend
    on the machine.

    Args:
      function: of the module and arrays; the same object for the same computation.
      network: its structure and weights.
      arrays: the last three axes of the first are those of an image [H, W, 3].

    Raises:
      UserError: memory does not suffice.
    """
    key = (function, network.graph, *((a.shape, a.dtype.name) for a in arrays))
    if key not in _PROGRAMS:
        graph = network.graph  # not the network: cached programs outlive weights
        program = jax.jit(lambda params, *inputs: function(nnx.merge(graph, params), *inputs))
        with jax.default_matmul_precision("highest"):
            lowered = program.lower(network.params, *arrays)
            height, width = arrays[0].shape[-3:-1]
            _PROGRAMS[key], _ = compile_to_fit(
                lowered, f"an image of {width}x{height} px", "use smaller images"
            )
    return _PROGRAMS[key](network.params, *arrays)
