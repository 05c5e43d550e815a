"""What computes attention on one device: XLA's products in three sizes of pieces, cuDNN, and jax's Pallas kernel for TPUs.

All take queries "b n heads d", keys and values "b k heads d" and a mask that is true where a query may attend, scale by
(head size)^−1/2, and take the softmax in float32. `nn.attention` chooses among them.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from portrait_jax.errors import ShapeError
from portrait_jax.target import platform
from portrait_jax.typing import Array, Bool, Float

CHUNK = 512
"""Queries per chunk."""
CACHE = 1 << 19
"""Scores that stay in a processor's cache: 2 MiB."""
LANES = 128
"""Blocks of the TPU kernel are multiples of it."""
BLOCK = 512
"""Queries and keys of a block of it, where there are as many."""

Queries = Float[Array, "b n heads d"]
Keys = Float[Array, "b k heads d"]
Mask = Bool[Array, "b #n k"]
Bias = Float[Array, "#b heads n k"]


def xla(q: Queries, k: Keys, v: Keys, mask: Mask | None, bias: Bias | None = None) -> Queries:
    """Normalises after weighting the values: one pass less over the scores, forward and backward."""
    scores = jnp.einsum("bnhd,bkhd->bhnk", q * q.shape[-1] ** -0.5, k, preferred_element_type=jnp.float32)
    if bias is not None:
        scores = scores + bias.astype(jnp.float32)
    if mask is not None:
        scores = jnp.where(mask[:, None], scores, jnp.finfo(jnp.float32).min)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    values = jnp.einsum("bhnk,bkhd->bhnd", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return jnp.swapaxes(values / weights.sum(-1, keepdims=True), 1, 2).astype(v.dtype)


def chunked(q: Queries, k: Keys, v: Keys, mask: Mask | None, size: int = CHUNK) -> Queries:
    """All items at once, `size` queries after the other: items may be sharded."""
    items, length = q.shape[:2]
    count = -(-length // size)

    def chunks(x: Array) -> Array:
        padded = jnp.pad(x, [(0, 0), (0, count * size - length)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(padded.reshape(items, count, size, *x.shape[2:]), 1, 0)

    per_query = mask is not None and mask.shape[1] > 1

    @jax.checkpoint
    def one(chunk: tuple[Array, ...]) -> Array:
        return xla(chunk[0], k, v, chunk[1] if per_query else mask)

    out = jax.lax.map(one, (chunks(q), chunks(mask)) if mask is not None and per_query else (chunks(q),))
    return jnp.moveaxis(out, 0, 1).reshape(items, count * size, *q.shape[2:])[:, :length]


def pieces(q: Queries, k: Keys, v: Keys, mask: Mask | None) -> Queries:
    """As many items at a time as fit the cache, else heads of an item; heads that do not fit are cut into chunks of queries."""
    items, queries, heads, _ = q.shape
    scores = heads * k.shape[1]
    if heads > 1 and scores * queries > CACHE:
        # One head's chunk is longer than that of all heads together, and long matrices multiply faster.
        q, k, v = (jnp.swapaxes(x, 1, 2).reshape(items * heads, x.shape[1], 1, -1) for x in (q, k, v))
        out = pieces(q, k, v, None if mask is None else jnp.repeat(mask, heads, axis=0))
        return jnp.swapaxes(out.reshape(items, heads, queries, -1), 1, 2)
    group = next((g for g in range(min(items, max(1, CACHE // (scores * queries))), 0, -1) if items % g == 0), 1)
    chunk = min(queries, max(64, CACHE // scores))
    arrays = (q, k, v) if mask is None else (q, k, v, mask)

    @jax.checkpoint
    def one(piece: tuple[Any, ...]) -> Array:
        q, k, v, mask = (*piece, None)[:4]
        return xla(q, k, v, mask) if chunk == queries else chunked(q, k, v, mask, chunk)

    out = jax.lax.map(one, jax.tree.map(lambda x: x.reshape(items // group, group, *x.shape[1:]), arrays))
    return out.reshape(q.shape)


def cudnn(q: Queries, k: Keys, v: Keys, mask: Mask | None) -> Queries:
    """cuDNN's fused attention: bfloat16 or float16, head sizes that are multiples of 8, up to 128."""
    heads = None if mask is None else jnp.broadcast_to(mask[:, None], (q.shape[0], 1, q.shape[1], k.shape[1]))
    return jax.nn.dot_product_attention(q, k, v, mask=heads, implementation="cudnn")


def splash(q: Queries, k: Keys, v: Keys, mask: Mask | None) -> Queries:
    """Splash attention, which `jax.experimental.pallas` keeps for TPUs; on other devices its blocks are interpreted, slowly.

    Queries and keys are padded to whole blocks. Segment ids tell keys that are attended to from those that are not: all
    queries are of segment 1, and so are the keys that they see. The kernel is opaque to the partitioner: in a mesh call it
    through `sharding.attention.by_heads`. Raises ShapeError for a mask that differs from query to query.
    """
    if mask is not None and mask.shape[1] > 1:
        raise ShapeError(
            f"splash attention hides keys from all queries alike: its mask is (b, 1, k), not {mask.shape}; choose chunked"
        )
    # Here, since Pallas takes half a second to import, which only a TPU is worth.
    from jax.experimental.pallas.ops.tpu import splash_attention as library

    (items, queries, heads, _), keys = q.shape, k.shape[1]
    rows, columns = block_of(queries), block_of(keys)
    q, k, v = (_blocks_by_head(x, block) for x, block in ((q * q.shape[-1] ** -0.5, rows), (k, columns), (v, columns)))
    segments = None
    if mask is not None or k.shape[2] > keys:
        seen = jnp.ones((items, keys), bool) if mask is None else mask[:, 0]
        seen = jnp.pad(seen, ((0, 0), (0, k.shape[2] - keys))).astype(jnp.int32)
        segments = library.SegmentIds(jnp.ones((items, q.shape[2]), jnp.int32), seen)
    sizes = library.BlockSizes(
        block_q=rows, block_kv=columns, block_q_dkv=rows, block_kv_dkv=columns, block_q_dq=rows, block_kv_dq=columns
    )
    full = library.MultiHeadMask([library.FullMask((q.shape[2], k.shape[2]))] * heads)
    kernel = library.make_splash_mha_single_device(full, block_sizes=sizes, interpret=platform() != "tpu")
    out = jax.vmap(kernel)(q, k.astype(q.dtype), v.astype(q.dtype), segments)
    return jnp.swapaxes(out, 1, 2)[:, :queries].astype(v.dtype)


def block_of(tokens: int) -> int:
    """Tokens of the kernel's blocks: few are one block, of whole lanes."""
    return min(BLOCK, -(-tokens // LANES) * LANES)


def _blocks_by_head(x: Float[Array, "b n heads d"], block: int) -> Float[Array, "b heads padded d"]:
    return jnp.swapaxes(jnp.pad(x, ((0, 0), (0, -x.shape[1] % block), (0, 0), (0, 0))), 1, 2)
