"""Attention over the mesh: each device computes a part, on its own, with whatever implementation it is given.

Items lie over the batch axes and heads over `tensor`, where these divide them. Tokens lie over `sequence` in one of three ways:

* few keys: each device attends with its own queries to all keys;
* all-to-all (arXiv 2309.14509, section 3.1): tokens are exchanged for heads, a device attends with all tokens of its heads, and
  the result is exchanged back. Where the axis divides the heads that a device has;
* ring otherwise (arXiv 2310.01889): keys and values go round while each device keeps its queries, see `sharding.ring`.

The score matrix is never whole on a device, unless the implementation makes it so.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, PartitionSpec

from portrait_jax.sharding.activations import dividing, mesh_in_context
from portrait_jax.sharding.mesh import BATCH_AXES
from portrait_jax.sharding.ring import ring_attention
from portrait_jax.typing import Array, Bool, Float

FEW_KEYS = 1024
"""Fewer keys are given to every device."""
RING_CHUNK = 512
"""Queries whose scores with one device's keys are held at once, in the ring."""
AXIS = "sequence"

Queries = Float[Array, "b n heads d"]
Keys = Float[Array, "b k heads d"]
Mask = Bool[Array, "b #n k"]
Attend = Callable[[Array, Array, Array, Array | None], Array]
"""Attention on one device: queries, keys, values, mask."""


def devices_of_tokens() -> int:
    """Over how many devices the mesh in context splits tokens; 1 without a mesh."""
    mesh = mesh_in_context()
    return 1 if mesh is None else mesh.shape[AXIS]


def by_heads(attend: Attend, q: Queries, k: Keys, v: Keys, mask: Mask | None) -> Queries:
    """Tokens whole on every device: for kernels that the partitioner cannot look into."""
    mesh = mesh_in_context()
    if mesh is None or mesh.size == 1:
        return attend(q, k, v, mask)
    items, heads = _items_and_heads(q, mesh)
    tokens = PartitionSpec(items, None, heads)
    return _mapped(attend, (q, k, v, mask), (tokens, tokens, tokens, PartitionSpec(items)), tokens)


def by_tokens(attend: Attend, q: Queries, k: Keys, v: Keys, mask: Mask | None) -> Queries:
    """Tokens over the mesh's `sequence` axis, padded where it does not divide them; see the module for the three ways.

    The ring computes by itself and does not use `attend`.
    """
    mesh = mesh_in_context()
    if mesh is None:
        return attend(q, k, v, mask)
    size, (items, heads) = mesh.shape[AXIS], _items_and_heads(q, mesh)
    apart, whole = PartitionSpec(items, AXIS, heads), PartitionSpec(items, None, heads)
    all_rows, own_rows = PartitionSpec(items), PartitionSpec(items, AXIS)
    (queries, keys), per_query = (q.shape[1], k.shape[1]), mask is not None and mask.shape[1] > 1
    if keys < FEW_KEYS:
        given = (_padded(q, size), k, v, _padded(mask, size) if mask is not None and per_query else mask)
        out = _mapped(attend, given, (apart, whole, whole, own_rows if per_query else all_rows), apart)
    elif q.shape[2] // (mesh.shape["tensor"] if heads else 1) % size == 0:
        given = (_padded(q, size), _padded(k, size), _padded(v, size), mask)
        out = _mapped(_all_to_all(attend, queries, keys), given, (apart, apart, apart, all_rows), apart)
    else:
        chunk = _even(-(-queries // size), RING_CHUNK)
        seen = _padded(jnp.ones((q.shape[0], 1, keys), bool) if mask is None else mask, size, axis=2)
        seen = _padded(seen, size * chunk) if per_query else seen
        given = (_padded(q, size * chunk), _padded(k, size), _padded(v, size), seen)
        out = _mapped(_ring(chunk), given, (apart, apart, apart, own_rows if per_query else all_rows), apart)
    return out[:, :queries]


def _ring(chunk: int) -> Callable[..., Array]:
    def ring(q: Array, k: Array, v: Array, mask: Array) -> Array:
        return ring_attention(q, k, v, mask, AXIS, chunk)

    return ring


def _all_to_all(attend: Attend, queries: int, keys: int) -> Attend:
    """`attend` for a device's tokens of all heads, by way of all tokens of its heads: there padding is cut off again."""

    def exchanged(q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        padded = q.shape[1] * jax.lax.axis_size(AXIS)
        q, k, v = (jax.lax.all_to_all(x, AXIS, split_axis=2, concat_axis=1, tiled=True) for x in (q, k, v))
        out = attend(q[:, :queries], k[:, :keys], v[:, :keys], mask)
        out = jnp.pad(out, ((0, 0), (0, padded - queries), (0, 0), (0, 0)))
        return jax.lax.all_to_all(out, AXIS, split_axis=1, concat_axis=2, tiled=True)

    return exchanged


def _items_and_heads(q: Queries, mesh: AbstractMesh) -> tuple[tuple[str, ...] | None, str | None]:
    heads = "tensor" if dividing(mesh, q.shape[2], ("tensor",)) else None
    return dividing(mesh, q.shape[0], BATCH_AXES), heads


def _mapped(
    body: Callable[..., Array], given: tuple[Array | None, ...], specs: tuple[PartitionSpec, ...], out: PartitionSpec
) -> Array:
    """`body` on every device's part. Pallas kernels say nothing of what varies over the mesh, so that is not checked."""
    return jax.shard_map(body, in_specs=specs, out_specs=out, check_vma=False)(*given)


def _padded(x: Array, multiple: int, axis: int = 1) -> Array:
    """Zeros (False) behind the last token, up to a multiple."""
    extra = -x.shape[axis] % multiple
    return jnp.pad(x, [(0, extra if number == axis else 0) for number in range(x.ndim)]) if extra else x


def _even(tokens: int, most: int) -> int:
    """The size of the largest chunks, at most `most`, that are all alike and hold so many tokens with least padding."""
    return math.ceil(tokens / math.ceil(tokens / most))
