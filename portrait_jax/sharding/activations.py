"""Where activations lie, said at block boundaries; without a mesh in context (`jax.set_mesh`) nothing is said."""

from __future__ import annotations

import jax
from jax.sharding import PartitionSpec

from portrait_jax.sharding.mesh import BATCH_AXES
from portrait_jax.typing import Array


def tokens_apart(x: Array) -> Array:
    """Tokens "b n …": items over the batch axes, tokens over `sequence`, where these divide them."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or "sequence" not in mesh.axis_names:
        return x
    size = 1
    for axis in BATCH_AXES:
        size *= mesh.shape[axis]
    items = BATCH_AXES if x.shape[0] % size == 0 else None
    tokens = "sequence" if x.shape[1] % mesh.shape["sequence"] == 0 else None
    return jax.lax.with_sharding_constraint(x, PartitionSpec(items, tokens))
