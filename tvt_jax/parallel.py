"""Devices: the mesh, and how arrays are sharded over it."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tvt_jax.config import MeshConfig
from tvt_jax.errors import UserError
from tvt_jax.models.target import target_device

AXES = ("data", "fsdp")
# Smaller arrays are copied to every device: splitting them costs more than it saves.
_MIN_SPLIT_ELEMENTS = 2**16
# What to do with a parameter, by the first pattern found in its path. The paths of the optimizer's
# moments end in their parameter's, so they are sharded alike.
SHARDING_RULES = (
    (r"/(scale|bias)$", "copy"),
    (r"", "split"),
)


def preferred_dtype() -> str:
    """The dtype in which the default device computes fast and well: "bfloat16" or "float32".

    CPUs, and NVIDIA GPUs before compute capability 8.0 (T4, V100), only emulate bfloat16.
    """
    platform, capability = target_device()
    old = platform == "gpu" and capability and float(capability) < 8.0
    return "float32" if platform == "cpu" or old else "bfloat16"


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Arranges devices in a (data, fsdp) mesh.

    Args:
      config: number of devices along each axis.
      devices: default all devices of all processes.

    Raises:
      UserError: the configured numbers do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    count, shape = len(devices), [config.data, config.fsdp]
    if shape.count(-1) == 1:
        known = shape[1 - shape.index(-1)]
        if known > 0 and count % known == 0:
            shape[shape.index(-1)] = count // known
    if min(shape) < 1 or shape[0] * shape[1] != count:
        raise UserError(
            f"`config.mesh.data={config.data}` `config.mesh.fsdp={config.fsdp}` does not fit "
            f"{count} devices; their product must be {count} (one may be -1)."
        )
    # Auto axes: the compiler places collectives; explicit ones reject convolutions over FSDP.
    return jax.make_mesh(tuple(shape), AXES, axis_types=(AxisType.Auto,) * 2, devices=devices)


def make_row_mesh(devices: Sequence[jax.Device]) -> Mesh:
    """A mesh of devices that work on one image together, each on some of its rows."""
    return Mesh(np.array(devices), ("rows",), axis_types=(AxisType.Auto,))


def lower_over(mesh: Mesh | None, function: Callable, *arguments: Any) -> jax.stages.Lowered:
    """Lowers a function for all devices of a mesh together, or for one device.

    Args:
      mesh: what the function returns is then whole on each device; None for one device.
      function, arguments: of arrays, which lie on those devices or on the host.
    """
    if mesh is None:
        return jax.jit(function).lower(*arguments)
    with jax.set_mesh(mesh):
        return jax.jit(function, out_shardings=on_every_device(mesh)).lower(*arguments)


def split_rows(images: jax.Array) -> jax.Array:
    """Inside a program: splits images [B, H, W, C] by rows over the mesh of `jax.set_mesh`.

    The compiler does the same to what is computed of them: devices exchange the rows at their
    borders, and sums over an image are of the whole image.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return images
    return jax.lax.with_sharding_constraint(images, PartitionSpec(None, mesh.axis_names))


def on_every_device(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis is split over all devices, those of an FSDP group included."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def state_shardings(tree: Any, mesh: Mesh) -> Any:
    """Places every array of a state by `SHARDING_RULES`.

    A split array is divided along its longest axis that the `fsdp` axis divides; an array that is
    small or has no such axis is copied to every device.

    Args:
      tree: arrays or `ShapeDtypeStruct`s: parameters, optimizer states.

    Returns: the same tree of `NamedSharding`s.
    """
    parts = mesh.shape["fsdp"]

    def sharding(path, leaf):
        name = f"/{jax.tree_util.keystr(path, simple=True, separator='/')}"
        rule = next(rule for pattern, rule in SHARDING_RULES if re.search(pattern, name))
        axes = [axis for axis, size in enumerate(leaf.shape) if size % parts == 0]
        if rule == "copy" or parts == 1 or leaf.size < _MIN_SPLIT_ELEMENTS or not axes:
            return on_every_device(mesh)
        longest = max(axes, key=lambda axis: leaf.shape[axis])
        spec = ["fsdp" if axis == longest else None for axis in range(leaf.ndim)]
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree_util.tree_map_with_path(sharding, tree)


def gathered(tree: Any, mesh: Mesh, dtype: Any = None) -> Any:
    """Inside a step: gathers sharded parameters on every device, where they are used.

    Without this the compiler splits convolutions by channel to follow their weights, and moves
    activations instead; gathering weights takes less memory and less traffic.

    Args:
      tree: parameters of `mesh`.
      dtype: of the computation; sharded kernels are gathered in it and converted back, so
        gradients keep their precision. None: gathered as they are.
    """
    if mesh.shape["fsdp"] == 1:
        return tree

    def whole(leaf):
        kernel = leaf.ndim > 1 and leaf.size >= _MIN_SPLIT_ELEMENTS
        travelling = leaf.astype(dtype) if dtype is not None and kernel else leaf
        travelling = jax.lax.with_sharding_constraint(travelling, on_every_device(mesh))
        return travelling.astype(leaf.dtype)

    return jax.tree.map(whole, tree)


def put_state(tree: Any, shardings: Any) -> Any:
    """Puts a tree that every process holds in full onto the devices."""
    return jax.tree.map(
        lambda leaf, sharding: jax.make_array_from_callback(
            leaf.shape, sharding, np.asarray(leaf).__getitem__, dtype=leaf.dtype
        ),
        tree,
        shardings,
    )


def to_host(tree: Any) -> Any:
    """Brings a tree of global arrays to every process, as numpy arrays."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(tree, tiled=True)


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Makes global arrays from each process's part of a batch."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, array)
        for name, array in batch.items()
    }
