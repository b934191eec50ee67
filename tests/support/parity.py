"""Running a PyTorch module and its counterpart here on the same weights, through real files."""

import tempfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from tvt_jax.models.layers import InitKeys
from tvt_jax.weights.names import params_from_torch
from tvt_jax.weights.tensor_files import open_tensors

PRECISION = dict(dtype=jnp.float32, param_dtype=jnp.float32)
BLOCK_TOLERANCE = 2e-5
NETWORK_TOLERANCE = 1e-4


def convert_module(reference: torch.nn.Module, make):
    """Gives a module here the weights of a PyTorch module, by way of a safetensors file.

    Args:
      reference: PyTorch module.
      make: function of keyword arguments dtype, param_dtype, rngs that builds the module here.

    Returns: (graph, params).
    """
    import safetensors.torch

    model = nnx.eval_shape(lambda: make(**PRECISION, rngs=InitKeys(None)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        safetensors.torch.save_file(reference.state_dict(), path)
        params = params_from_torch(model, open_tensors(path), jnp.float32, str(path))
    return nnx.graphdef(model), params


def nchw(array: np.ndarray) -> torch.Tensor:
    """[B, H, W, C] numpy to [B, C, H, W] torch."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 1)))


def nhwc(tensor: torch.Tensor) -> np.ndarray:
    """[B, C, H, W] torch to [B, H, W, C] numpy."""
    return np.moveaxis(tensor.detach().numpy(), 1, -1)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    """Standard normal float32."""
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def max_difference(a, b) -> float:
    """Greatest absolute difference; shapes must agree."""
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape, (a.shape, b.shape)
    return float(np.abs(a - b).max())
