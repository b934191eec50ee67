"""Devices: the mesh, and which array is split over which axis of it."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tvt_jax.config import MeshConfig
from tvt_jax.errors import UserError

AXES = ("data", "fsdp")
# Smaller arrays are copied to every device: splitting them costs more than it saves.
_MIN_SPLIT_ELEMENTS = 2**16


def make_mesh(config: MeshConfig) -> Mesh:
    """Arranges all devices of all processes in a (data, fsdp) mesh.

    Raises:
      UserError: the configured numbers do not multiply to the number of devices.
    """
    devices, shape = jax.device_count(), [config.data, config.fsdp]
    if shape.count(-1) == 1:
        known = shape[1 - shape.index(-1)]
        if known > 0 and devices % known == 0:
            shape[shape.index(-1)] = devices // known
    if min(shape) < 1 or shape[0] * shape[1] != devices:
        raise UserError(
            f"--config.mesh.data={config.data} --config.mesh.fsdp={config.fsdp} does not fit "
            f"{devices} devices; their product must be {devices} (one may be -1)."
        )
    # Auto axes: the compiler places collectives; explicit ones reject convolutions over FSDP.
    return jax.make_mesh(tuple(shape), AXES, axis_types=(AxisType.Auto,) * 2)


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis is split over all devices: FSDP also works on different samples."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def state_shardings(tree: Any, mesh: Mesh) -> Any:
    """Splits each large array along its longest axis that the `fsdp` axis divides.

    Args:
      tree: arrays or `ShapeDtypeStruct`s: parameters, optimizer states.

    Returns: the same tree of `NamedSharding`s.
    """
    parts = mesh.shape["fsdp"]

    def sharding(leaf):
        axes = [axis for axis, size in enumerate(leaf.shape) if size % parts == 0]
        if parts == 1 or leaf.size < _MIN_SPLIT_ELEMENTS or not axes:
            return replicated(mesh)
        longest = max(axes, key=lambda axis: leaf.shape[axis])
        spec = ["fsdp" if axis == longest else None for axis in range(leaf.ndim)]
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree.map(sharding, tree)


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Makes global arrays of each process's part of a batch."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, array)
        for name, array in batch.items()
    }
