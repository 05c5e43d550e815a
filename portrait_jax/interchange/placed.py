"""Published checkpoints straight to sharded arrays: no device and no host ever holds more than its part and one layer.

A file is read tensor by tensor. A leaf goes to the devices as soon as it is read; of scanned layers, which are one leaf, each
layer does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from portrait_jax.errors import CheckpointError
from portrait_jax.interchange.convert import cast, chosen_dtype
from portrait_jax.interchange.layouts import layout_named
from portrait_jax.interchange.matching import Match, assign
from portrait_jax.interchange.rules import Link
from portrait_jax.sharding.placing import from_host
from portrait_jax.sharding.rules import leaf_spec
from portrait_jax.training.state import unflatten
from portrait_jax.typing import Array, Params, PyTree


def place_checkpoint(
    names: Sequence[str],
    inputs: Sequence[str],
    mesh: Mesh,
    *,
    dtype: str = "",
    subnet: str | None = None,
    targets: Mapping[str, PyTree] | None = None,
    ignore_extra: bool = False,
) -> Params:
    """Reads published files into parameters that lie on a mesh by the rules of `sharding.rules`.

    Every process of a run calls it, and keeps what its devices hold.

    Args:
        names, inputs, dtype, subnet, targets, ignore_extra: see `convert.import_checkpoint`.

    Raises:
        CheckpointError, ShapeError, ConfigError: as `convert.import_checkpoint`.
    """
    matches, _ = assign([layout_named(name) for name in names], inputs, targets, subnet, extra_ok=ignore_extra)
    chosen = chosen_dtype(dtype)
    leaves: dict[str, Array] = {}
    for match in matches:
        for link in match.links:
            leaf = f"{match.subnet}/{link.path}"
            if leaf in leaves:
                raise CheckpointError(f"{leaf} comes from {match.source.path} and another file; leave one out")
            leaves[leaf] = read_placed(match, link, chosen or match.dtype(link), mesh)
    return unflatten(leaves)


def read_placed(match: Match, link: Link, dtype: np.dtype, mesh: Mesh) -> Array:
    """One leaf on its devices; of a stack one layer after the other is read and put into its row."""
    place = NamedSharding(mesh, leaf_spec(f"{match.subnet}/{link.path}", link.shape, mesh))
    if not link.layers:
        return from_host(cast(match.read(link), dtype, link.path), place)
    row = NamedSharding(place.mesh, PartitionSpec(*place.spec[1:]))
    stack = jax.jit(partial(jnp.zeros, link.shape, dtype), out_shardings=place)()
    for i in range(link.layers):
        layer = from_host(cast(match.read(link.layer(i)), dtype, link.path), row)
        stack = with_row(stack, layer, np.int32(i), place)
    return stack


@partial(jax.jit, static_argnums=3, donate_argnums=0)
def with_row(stack: Array, row: Array, index: Array, place: NamedSharding) -> Array:
    """The stack with one row replaced, in place."""
    return jax.lax.with_sharding_constraint(jax.lax.dynamic_update_index_in_dim(stack, row, index, 0), place)
