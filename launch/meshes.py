"""Meshes as flags name them: `--mesh data=2,fsdp=4`."""

from __future__ import annotations

from collections.abc import Sequence

from jax.sharding import Mesh

from portrait_jax.errors import ConfigError, nearest
from portrait_jax.sharding.mesh import AXES, make_mesh


def mesh_sizes(given: Sequence[str]) -> dict[str, int]:
    """Sizes of all axes from `axis=size` each; those that are not named have one device.

    Raises:
        ConfigError: for an axis that does not exist, or a size that is no number.
    """
    sizes = dict.fromkeys(AXES, 1)
    for part in given:
        axis, _, size = part.partition("=")
        if axis not in AXES:
            raise ConfigError(f"--mesh has no axis '{axis}'{nearest(axis, AXES)}")
        if not size.lstrip("-").isdecimal():
            raise ConfigError(f"--mesh {axis} needs a number of devices, not '{size}'")
        sizes[axis] = int(size)
    return sizes


def sampling_mesh(given: Sequence[str]) -> Mesh | None:
    """The mesh that an animation runs over; None where nothing is given or it is one device, for which nothing is said.

    Raises:
        ConfigError, DeviceError: see `mesh_sizes` and `make_mesh`.
    """
    mesh = make_mesh(**mesh_sizes(given)) if given else None
    return None if mesh is None or mesh.size == 1 else mesh
