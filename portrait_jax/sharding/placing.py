"""Where the arguments of jitted programs lie, and the mesh under which these run.

Programs say for themselves how what they compute is shared out (`sharding.activations`); what they are given lies where it is
said here, so that a program that is compiled ahead is the one that a run asks for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from portrait_jax.conditioning import Conditioning
from portrait_jax.sharding.activations import dividing
from portrait_jax.sharding.mesh import BATCH_AXES
from portrait_jax.sharding.rules import shardings
from portrait_jax.typing import Array, PyTree


@dataclass(frozen=True)
class Placing:
    """Puts arrays on a mesh; of shapes (`jax.ShapeDtypeStruct`) it says where such arrays would be.

    Attributes:
        mesh: None: everything goes where jax puts it, and nothing is said.
    """

    mesh: Mesh | None = None

    @property
    def parts(self) -> int:
        """Into how many parts the batch axes cut an axis of clips."""
        return 1 if self.mesh is None else math.prod(self.mesh.shape[axis] for axis in BATCH_AXES)

    def params(self, tree: PyTree) -> PyTree:
        """Parameters by `sharding.rules`. Each device gets its part from the host: none ever holds a whole tree that is spread."""
        if self.mesh is None:
            return jax.tree.map(lambda leaf: self.put(leaf, None), tree)
        return jax.tree.map(self.put, tree, shardings(tree, self.mesh))

    def items(self, tree: PyTree, axis: int | PyTree = 0) -> PyTree:
        """Arrays with an axis of clips, over the mesh's batch axes where these divide it; otherwise whole on every device.

        Args:
            axis: which one, of all arrays or of each (a tree); an array without it is whole.
        """
        mesh = self.mesh
        if mesh is None:
            return tree
        axes = jax.tree.map(lambda _: axis, tree) if isinstance(axis, int) else axis

        def place(leaf: Any, axis: int) -> Any:
            split = dividing(mesh, leaf.shape[axis], BATCH_AXES) if leaf.ndim > axis else None
            return self.put(
                leaf, NamedSharding(mesh, PartitionSpec(*[None] * axis, split) if split else PartitionSpec())
            )

        return jax.tree.map(place, tree, axes)

    def told(self, tree: PyTree) -> PyTree:
        """`items` of conditionings, in any tree: keys and values of `Conditioning.memory` have their layers before their clips."""

        def place(found: Conditioning) -> Conditioning:
            return self.items(found.replace(memory=None)).replace(memory=self.items(found.memory, 1))

        return jax.tree.map(place, tree, is_leaf=lambda found: isinstance(found, Conditioning))

    def put(self, leaf: Any, place: Any) -> Any:
        """One array, or shape, at its place."""
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)
        return jax.device_put(leaf, place)

    def under(self, program: Callable[..., Any]) -> Callable[..., Any]:
        """The program, which is traced and run with the mesh in context."""
        mesh = self.mesh
        if mesh is None:
            return program

        def run(*args: Any, **kwargs: Any) -> Any:
            with jax.set_mesh(mesh):
                return program(*args, **kwargs)

        return run


def from_host(array: np.ndarray, place: NamedSharding) -> Array:
    """An array on its devices, when it is there: each process gives its own devices what they hold, and may then forget it."""
    return jax.block_until_ready(jax.make_array_from_callback(array.shape, place, lambda index: array[index]))


ONE_DEVICE = Placing()
"""Says nothing of where anything lies."""


def item_axes(make: Callable[[int], PyTree]) -> PyTree:
    """Which axis of each array grows with the number of clips; `make` says the arrays for a number of them."""

    def grown(one: Any, two: Any) -> int:
        return next((axis for axis, sizes in enumerate(zip(one.shape, two.shape)) if sizes[0] != sizes[1]), one.ndim)

    return jax.tree.map(grown, *(jax.eval_shape(lambda clips=clips: make(clips)) for clips in (1, 2)))
