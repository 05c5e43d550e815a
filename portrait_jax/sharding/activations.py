"""Where activations lie, said at block boundaries; without a mesh in context (`jax.set_mesh`) nothing is said."""

from __future__ import annotations

import math
from itertools import combinations

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, PartitionSpec

from portrait_jax.sharding.mesh import AXES, BATCH_AXES
from portrait_jax.typing import Array, Float, PyTree


def mesh_in_context() -> AbstractMesh | None:
    """The mesh of `jax.set_mesh`, if it has our axes; None in the body of a `shard_map`, which sees one device's part."""
    mesh = jax.sharding.get_abstract_mesh()
    ours = not mesh.empty and set(AXES) <= set(mesh.axis_names)
    return mesh if ours and AxisType.Manual not in mesh.axis_types else None


def dividing(mesh: AbstractMesh | Mesh, size: int, axes: tuple[str, ...]) -> tuple[str, ...] | None:
    """These axes of the mesh if together they divide an axis of an array, else None: it stays whole."""
    return axes if size % math.prod(mesh.shape[axis] for axis in axes) == 0 else None


def items_apart(tree: PyTree, *choices: tuple[str, ...]) -> PyTree:
    """Arrays whose first axis is one of independent items (clips, guidance branches, single frames): they lie over the mesh, so
    that each device computes its own.

    Args:
        choices: sets of mesh axes, of which the first that divides an array is taken; default the batch axes. An array that none
            divides lies as the partitioner finds best, and so do all other axes.
    """
    mesh = mesh_in_context()
    if mesh is None:
        return tree

    def place(x: Array) -> Array:
        axes = next((axes for axes in choices or (BATCH_AXES,) if dividing(mesh, x.shape[0], axes)), None)
        if axes is None:
            return x
        rest = [PartitionSpec.UNCONSTRAINED] * (x.ndim - 1)
        return jax.lax.with_sharding_constraint(x, PartitionSpec(axes, *rest))

    return jax.tree.map(place, tree)


def tokens_apart(x: Array) -> Array:
    """Tokens "b n …": items over the batch axes, tokens over `sequence`, where these divide them.

    Tokens that `sequence` does not divide lie as the partitioner finds best: it splits them unevenly where attention does
    (`sharding.attention`), which a constraint may not say.
    """
    mesh = mesh_in_context()
    if mesh is None:
        return x
    tokens = dividing(mesh, x.shape[1], ("sequence",)) or PartitionSpec.UNCONSTRAINED
    return jax.lax.with_sharding_constraint(x, PartitionSpec(dividing(mesh, x.shape[0], BATCH_AXES), tokens))


def strips_apart(x: Float[Array, "b f h w c"]) -> Float[Array, "b f h w c"]:
    """Videos to convolve: clips over the batch axes where these divide them, strips of every picture over the axes that are left.

    A device convolves its own strip and gets its neighbours' borders. Strips are of rows, or of columns where more devices divide
    these; devices that divide neither do the same work.
    """
    mesh = mesh_in_context()
    if mesh is None:
        return x
    clips = dividing(mesh, x.shape[0], BATCH_AXES)
    left = [axis for axis in AXES if not clips or axis not in BATCH_AXES]
    sets = [axes for count in range(1, len(left) + 1) for axes in combinations(left, count)]
    fitting = [(axis, axes) for axis in (2, 3) for axes in sets if dividing(mesh, x.shape[axis], axes)]
    place: list[tuple[str, ...] | None] = [clips, None, None, None, None]
    if fitting:
        axis, axes = max(fitting, key=lambda found: math.prod(mesh.shape[name] for name in found[1]))
        place[axis] = axes
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*place))
