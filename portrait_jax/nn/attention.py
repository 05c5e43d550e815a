"""Multi-head attention: one entry point that picks the implementation, and the layer with its four projections."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from portrait_jax.errors import ConfigError, ShapeError
from portrait_jax.target import platform
from portrait_jax.typing import Array, Bool, Float

LONG = 1 << 21
"""Scores per head (queries × keys) from which an accelerator computes them in chunks of queries."""
CHUNK = 512
"""Queries per chunk."""
CACHE = 1 << 19
"""Scores that stay in a processor's cache: 2 MiB."""

Queries = Float[Array, "b n heads d"]
Keys = Float[Array, "b k heads d"]
Mask = Bool[Array, "b #n k"]
Bias = Float[Array, "#b heads n k"]


def attention(
    q: Queries, k: Keys, v: Keys, *, mask: Mask | None = None, bias: Bias | None = None, implementation: str = "auto"
) -> Float[Array, "b n heads d"]:
    """Softmax attention, scaled by (head size)^−1/2, softmax in float32.

    `mask` is true where a query may attend; heads share it. `bias` is added to the scaled scores, which then are computed as a
    whole: it is as large as they are. `implementation` is "xla" (whole score matrix), "chunked"
    (chunks of queries, recomputed in the backward pass), "pieces" (pieces that fit a processor's cache, likewise), "cudnn"
    (bf16/fp16 on an NVIDIA GPU), or "auto", which decides by device, type and size. Raises ConfigError for another name.
    """
    if bias is not None:
        return _xla(q, k, v, mask, bias)
    name = _choose(q, k) if implementation == "auto" else implementation
    if name not in IMPLEMENTATIONS:
        known = ", ".join(("auto", *IMPLEMENTATIONS))
        raise ConfigError(f"attention implementation '{name}' does not exist; known are: {known}")
    return IMPLEMENTATIONS[name](q, k, v, mask)


def _choose(q: Queries, k: Keys) -> str:
    target, (items, queries, heads, size), keys = platform(), q.shape, k.shape[1]
    if target == "cpu":
        return "pieces" if items * heads * queries * keys > CACHE else "xla"
    if target == "gpu" and q.dtype.itemsize == 2 and size % 8 == 0 and size <= 128:
        return "cudnn"
    return "chunked" if queries * keys >= LONG and queries > CHUNK else "xla"


def _xla(q: Queries, k: Keys, v: Keys, mask: Mask | None, bias: Bias | None = None) -> Queries:
    """Normalises after weighting the values: one pass less over the scores, forward and backward."""
    scores = jnp.einsum("bnhd,bkhd->bhnk", q * q.shape[-1] ** -0.5, k, preferred_element_type=jnp.float32)
    if bias is not None:
        scores = scores + bias.astype(jnp.float32)
    if mask is not None:
        scores = jnp.where(mask[:, None], scores, jnp.finfo(jnp.float32).min)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    values = jnp.einsum("bhnk,bkhd->bhnd", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return jnp.swapaxes(values / weights.sum(-1, keepdims=True), 1, 2).astype(v.dtype)


def _chunked(q: Queries, k: Keys, v: Keys, mask: Mask | None, size: int = CHUNK) -> Queries:
    """All items at once, `size` queries after the other: items may be sharded."""
    items, length = q.shape[:2]
    count = -(-length // size)

    def chunks(x: Array) -> Array:
        padded = jnp.pad(x, [(0, 0), (0, count * size - length)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(padded.reshape(items, count, size, *x.shape[2:]), 1, 0)

    per_query = mask is not None and mask.shape[1] > 1

    @jax.checkpoint
    def one(chunk: tuple[Array, ...]) -> Array:
        return _xla(chunk[0], k, v, chunk[1] if per_query else mask)

    out = jax.lax.map(one, (chunks(q), chunks(mask)) if mask is not None and per_query else (chunks(q),))
    return jnp.moveaxis(out, 0, 1).reshape(items, count * size, *q.shape[2:])[:, :length]


def _pieces(q: Queries, k: Keys, v: Keys, mask: Mask | None) -> Queries:
    """As many items at a time as fit the cache, else heads of an item; heads that do not fit are cut into chunks of queries."""
    items, queries, heads, _ = q.shape
    scores = heads * k.shape[1]
    if heads > 1 and scores * queries > CACHE:
        # One head's chunk is longer than that of all heads together, and long matrices multiply faster.
        q, k, v = (jnp.swapaxes(x, 1, 2).reshape(items * heads, x.shape[1], 1, -1) for x in (q, k, v))
        out = _pieces(q, k, v, None if mask is None else jnp.repeat(mask, heads, axis=0))
        return jnp.swapaxes(out.reshape(items, heads, queries, -1), 1, 2)
    group = next((g for g in range(min(items, max(1, CACHE // (scores * queries))), 0, -1) if items % g == 0), 1)
    chunk = min(queries, max(64, CACHE // scores))
    arrays = (q, k, v) if mask is None else (q, k, v, mask)

    @jax.checkpoint
    def one(piece: tuple[Any, ...]) -> Array:
        q, k, v, mask = (*piece, None)[:4]
        return _xla(q, k, v, mask) if chunk == queries else _chunked(q, k, v, mask, chunk)

    out = jax.lax.map(one, jax.tree.map(lambda x: x.reshape(items // group, group, *x.shape[1:]), arrays))
    return out.reshape(q.shape)


def _cudnn(q: Queries, k: Keys, v: Keys, mask: Mask | None) -> Queries:
    heads = None if mask is None else jnp.broadcast_to(mask[:, None], (q.shape[0], 1, q.shape[1], k.shape[1]))
    return jax.nn.dot_product_attention(q, k, v, mask=heads, implementation="cudnn")


IMPLEMENTATIONS: dict[str, Callable[..., Array]] = {
    "xla": _xla,
    "chunked": _chunked,
    "pieces": _pieces,
    "cudnn": _cudnn,
}


def split_heads(x: Float[Array, "*batch c"], heads: int) -> Float[Array, "*batch heads d"]:
    """Cuts the last axis into `heads` equal parts; raises ShapeError if it does not divide."""
    if x.shape[-1] % heads:
        raise ShapeError(f"{heads} heads do not divide a width of {x.shape[-1]}; choose another number of heads")
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads)


class Attention(nn.Module):
    """Projections around `attention`, named as in diffusers: to_q, to_k, to_v, to_out_0 (biases optional).

    With `zero_out` the last one is zero at the start: a residual around the layer is the identity then.

    Context and extra tokens may have a smaller batch than `x`: consecutive items of `x` (the frames of one clip, batch-major)
    then share them, and their keys and values are computed once.
    """

    heads: int
    qkv_bias: bool = False
    out_bias: bool = True
    zero_out: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "bf n c"],
        context: Float[Array, "b k d"] | None = None,
        *,
        extra: Float[Array, "b m c"] | None = None,
        extra_mask: Array | None = None,
        join: Callable[[Array, Array], Array] | None = None,
    ) -> Float[Array, "bf n c"]:
        """`context` replaces the tokens attended to (cross-attention); `extra` joins them (reference attention).

        `extra_mask` (b,) is 1 where the extra tokens are attended to and 0 where the result is as without them.
        `join` gets the gathered values and the queries, both "bf n c", and returns the values to project: decoupled
        attention adds its own there.
        """
        items, length, width = x.shape
        names = ("to_q", "to_k", "to_v")
        to_q, to_k, to_v = (nn.Dense(width, use_bias=self.qkv_bias, dtype=self.dtype, name=name) for name in names)
        source = x if context is None else context
        q, k, v = (split_heads(layer(y), self.heads) for layer, y in ((to_q, x), (to_k, source), (to_v, source)))
        mask = None
        if extra is not None:
            share = items // extra.shape[0]
            k, v = (
                jnp.concatenate([own, jnp.repeat(split_heads(layer(extra), self.heads), share, axis=0)], axis=1)
                for own, layer in ((k, to_k), (v, to_v))
            )
            mask = None if extra_mask is None else joined_mask(extra_mask, share, length, extra.shape[1])
        # Items that share their keys are attended to as one item with more queries: no copy of the keys.
        out = attention(q.reshape(k.shape[0], -1, *q.shape[2:]), k, v, mask=mask).reshape(x.shape)
        if join is not None:
            out = join(out, q.reshape(x.shape))
        start = nn.initializers.zeros if self.zero_out else nn.linear.default_kernel_init
        return nn.Dense(width, use_bias=self.out_bias, kernel_init=start, dtype=self.dtype, name="to_out_0")(out)


def joined_mask(extra_mask: Array, share: int, own: int, extra: int) -> Bool[Array, "bf 1 k"]:
    """Keys visible when `extra` tokens follow `own` ones: always the own, the extra where `extra_mask` (b,) is set."""
    visible = jnp.repeat(extra_mask.astype(bool), share)[:, None]
    columns = jnp.arange(own + extra)[None] < own
    return (columns | visible)[:, None]
