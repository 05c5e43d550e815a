"""The device mesh and how batches lie on it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from portrait_jax.errors import ConfigError, DeviceError
from portrait_jax.typing import Array

AXES = ("data", "fsdp", "tensor", "sequence")
BATCH_AXES = ("data", "fsdp")
"""Mesh axes over which axis 0 of every batch is split."""
AUTO = (AxisType.Auto,) * len(AXES)


def make_mesh(
    data: int = -1, fsdp: int = 1, tensor: int = 1, sequence: int = 1, *, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh with the axes `data`, `fsdp`, `tensor`, `sequence`; one of the sizes may be −1: all devices left.

    Args:
        data: copies of the model that see different examples.
        fsdp: devices over which each parameter (and its optimizer state) is spread; they see different examples too.
        tensor: devices that share the heads and channels of a layer.
        sequence: devices that share the tokens or frames of one example.
        devices: default all devices of all hosts; fewer are used if the product of the sizes is smaller.

    Raises:
        ConfigError: for a size that is neither positive nor −1, or two sizes of −1.
        DeviceError: if the sizes need more devices than there are, or −1 does not come out even.
    """
    devices = jax.devices() if devices is None else list(devices)
    shape = mesh_shape(len(devices), data, fsdp, tensor, sequence)
    chosen = devices[: math.prod(shape)]
    # An axis of ours may be a part of one of the machine's: eight-fold data over a slice of 4×4 chips.
    placed = mesh_utils.create_device_mesh(shape, chosen, allow_split_physical_axes=True)
    return Mesh(placed, AXES, axis_types=AUTO)


def described_mesh(devices: int, data: int = -1, fsdp: int = 1, tensor: int = 1, sequence: int = 1) -> AbstractMesh:
    """`make_mesh` of so many devices that need not be there: it says where arrays would lie. Raises as that does."""
    return AbstractMesh(mesh_shape(devices, data, fsdp, tensor, sequence), AXES, axis_types=AUTO)


def mesh_shape(devices: int, data: int, fsdp: int, tensor: int, sequence: int) -> tuple[int, ...]:
    """The sizes of all axes, −1 resolved; raises as `make_mesh` does."""
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor, "sequence": sequence}
    if any(size < 1 and size != -1 for size in sizes.values()):
        raise ConfigError(f"mesh sizes must be positive, or −1 for all devices left: {sizes}")
    free = [axis for axis, size in sizes.items() if size == -1]
    if len(free) > 1:
        raise ConfigError(f"only one mesh size may be −1, not {' and '.join(free)}")
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if fixed > devices:
        raise DeviceError(f"the mesh {sizes} needs {fixed} devices, {devices} are there; make the mesh smaller")
    if free:
        if devices % fixed:
            raise DeviceError(f"{devices} devices do not split over the mesh {sizes}; say how large {free[0]} is")
        sizes[free[0]] = devices // fixed
    return tuple(sizes.values())


def batch_sharding(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Axis 0 over `data` and `fsdp`; all other axes whole."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def check_batch_size(batch_size: int, accumulate: int, mesh: Mesh | AbstractMesh) -> None:
    """Checks that every device gets equally many examples of every microbatch.

    Raises:
        ConfigError: if not.
    """
    parts = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    if batch_size % (parts * accumulate):
        raise ConfigError(
            f"batch_size {batch_size} does not split into {accumulate} microbatches over {parts} devices "
            f"(data × fsdp); make it a multiple of {parts * accumulate}"
        )


class Share(NamedTuple):
    """Which part of every global batch a process loads: one of so many equal blocks of rows."""

    number: int
    parts: int


def batch_share(mesh: Mesh) -> Share:
    """This process's share. Processes that hold the same examples, with other tokens or channels of them, have the same.

    Raises:
        ConfigError: if its devices hold examples that are no block.
    """
    parts = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    owners = [{device.process_index for device in row} for row in mesh.devices.reshape(parts, -1)]
    share = share_of(owners, jax.process_index())
    if share is None:
        raise ConfigError(
            f"the mesh {dict(mesh.shape)} gives process {jax.process_index()} no block of the batch of its own; make data × fsdp "
            "a multiple of the number of processes, or tensor × sequence one of a process's devices"
        )
    return share


def share_of(owners: Sequence[Collection[int]], process: int) -> Share | None:
    """`owners`: the processes that hold each part of the batch, in order. None if those of `process`
    are no block at a multiple of its length."""
    own = [number for number, found in enumerate(owners) if process in found]
    block = len(own)
    if not block or len(owners) % block or own[0] % block or own != list(range(own[0], own[0] + block)):
        return None
    return Share(own[0] // block, len(owners) // block)


def shard_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, Array]:
    """Puts this host's part of a batch (arrays with a leading batch axis, see `batch_share`) on its devices, as one global
    batch."""
    sharding = batch_sharding(mesh)
    if jax.process_count() == 1:
        return jax.device_put(dict(batch), sharding)
    parts = batch_share(mesh).parts
    return {
        name: jax.make_array_from_process_local_data(sharding, value, (parts * len(value), *value.shape[1:]))
        for name, value in batch.items()
    }
