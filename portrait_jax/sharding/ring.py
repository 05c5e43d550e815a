"""Attention whose keys and values go round the devices of a mesh axis, each of which keeps its queries (arXiv 2310.01889).

The softmax is gathered block by block (arXiv 2112.05682, section 2). The backward pass goes round once more: it computes the
scores again from what a device has, so that nothing is kept of the turns, however many there are.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from portrait_jax.typing import Array, Bool, Float

LEAST = float(jnp.finfo(jnp.float32).min)
"""The score of a key that is not seen: finite, so that a block without any is no infinity less another."""

Queries = Float[Array, "b n heads d"]
Keys = Float[Array, "b k heads d"]


class Softmax(NamedTuple):
    """What is known of chunks of queries after some blocks of keys: values weighted by exp(score − top), and these weights' sum."""

    values: Float[Array, "*chunks b heads n d"]
    total: Float[Array, "*chunks b heads n 1"]
    top: Float[Array, "*chunks b heads n 1"]


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def ring_attention(
    q: Queries, k: Keys, v: Keys, mask: Bool[Array, "b _ keys"], axis: str, chunk: int
) -> Float[Array, "b n heads d"]:
    """Softmax attention of a device's queries to the keys of all devices, scaled by (head size)^−1/2, softmax in float32.

    For the body of a `shard_map`. Has no forward-mode derivative.

    Args:
        q, k, v: this device's; all devices have equally many.
        mask: over the keys of all devices in their order, for all queries alike (b, 1, keys) or for each of this device's.
        axis: of the mesh, over which tokens lie.
        chunk: queries whose scores are held at once; divides their number.
    """
    return _forward(q, k, v, mask, axis, chunk)[0]


def _forward(q: Queries, k: Keys, v: Keys, mask: Array, axis: str, chunk: int) -> tuple[Array, tuple[Array, ...]]:
    """The result, and with it what the backward pass needs: the logarithm of each query's sum of exp(score)."""
    queries = _cut(q * q.shape[-1] ** -0.5, chunk)
    parts, items, _, heads, size = queries.shape
    none = jnp.zeros((parts, items, heads, chunk, 1), jnp.float32)
    start = Softmax(jnp.zeros((*none.shape[:-1], size), jnp.float32), none, none + LEAST)

    def turn(carry: tuple[Softmax, Array, Array], number: Array) -> tuple[tuple[Softmax, Array, Array], None]:
        state, k, v = carry
        seen = _seen(mask, number, k.shape[1], axis, parts)
        state = jax.lax.map(lambda piece: _add(piece[0], piece[1], piece[2], k, v), (state, queries, seen))
        return (state, *_pass_on((k, v), axis)), None

    (state, _, _), _ = jax.lax.scan(turn, (start, k, v), jnp.arange(jax.lax.axis_size(axis)))
    out = _join(jnp.swapaxes(state.values / state.total, 2, 3)).astype(v.dtype)
    return out, (q, k, v, mask, out, state.top + jnp.log(state.total))


def _add(state: Softmax, q: Queries, seen: Array, k: Keys, v: Keys) -> Softmax:
    """One more block of keys for a chunk of queries."""
    scores = _scores(q, k, seen)
    top = jnp.maximum(state.top, scores.max(-1, keepdims=True))
    weights, kept = jnp.exp(scores - top), jnp.exp(state.top - top)
    values = jnp.einsum("bhnk,bkhd->bhnd", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return Softmax(state.values * kept + values, state.total * kept + weights.sum(-1, keepdims=True), top)


def _backward(axis: str, chunk: int, kept: tuple[Array, ...], grad: Array) -> tuple[Array | None, ...]:
    """Derivatives of keys and values go round with them, and are home after the last turn."""
    q, k, v, mask, out, log_sum = kept
    scale = q.shape[-1] ** -0.5
    queries, grads = _cut(q * scale, chunk), _cut(grad, chunk)
    # Σ over keys of weight × its derivative: by the values that these weights made.
    mean = jnp.einsum("pbnhd,pbnhd->pbhn", grads, _cut(out, chunk), preferred_element_type=jnp.float32)[..., None]
    parts = queries.shape[0]

    def turn(carry: tuple[Array, ...], number: Array) -> tuple[tuple[Array, ...], None]:
        dq, k, v, dk, dv = carry
        seen = _seen(mask, number, k.shape[1], axis, parts)

        def one(sums: tuple[Array, Array], piece: tuple[Array, ...]) -> tuple[tuple[Array, Array], Array]:
            more_q, more_k, more_v = _derivatives(piece, k, v)
            return (sums[0] + more_k, sums[1] + more_v), more_q

        (dk, dv), more = jax.lax.scan(one, (dk, dv), (queries, seen, grads, log_sum, mean))
        return (dq + more, *_pass_on((k, v, dk, dv), axis)), None

    start = (jnp.zeros(queries.shape, jnp.float32), k, v, *(jnp.zeros(x.shape, jnp.float32) for x in (k, v)))
    (dq, _, _, dk, dv), _ = jax.lax.scan(turn, start, jnp.arange(jax.lax.axis_size(axis)))
    return (_join(dq) * scale).astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None


def _derivatives(piece: tuple[Array, ...], k: Keys, v: Keys) -> tuple[Queries, Keys, Keys]:
    """Of a chunk's scaled queries, and of a block's keys and values."""
    q, seen, grad, log_sum, mean = piece
    product = partial(jnp.einsum, preferred_element_type=jnp.float32)
    weights = jnp.exp(_scores(q, k, seen) - log_sum)
    dv = product("bhnk,bnhd->bkhd", weights.astype(grad.dtype), grad)
    ds = (weights * (product("bnhd,bkhd->bhnk", grad, v) - mean)).astype(q.dtype)
    return product("bhnk,bkhd->bnhd", ds, k), product("bhnk,bnhd->bkhd", ds, q), dv


ring_attention.defvjp(_forward, _backward)


def _scores(q: Queries, k: Keys, seen: Bool[Array, "b _ k"]) -> Float[Array, "b heads n k"]:
    scores = jnp.einsum("bnhd,bkhd->bhnk", q, k, preferred_element_type=jnp.float32)
    return jnp.where(seen[:, None], scores, LEAST)


def _seen(mask: Array, turn: Array, keys: int, axis: str, parts: int) -> Bool[Array, "chunks b _ k"]:
    """The mask's columns for the block that is here at this turn, for each chunk of queries."""
    size = jax.lax.axis_size(axis)
    owner = (jax.lax.axis_index(axis) - turn) % size
    columns = jax.lax.dynamic_slice_in_dim(mask, owner * keys, keys, axis=2)
    if mask.shape[1] == 1:
        return jnp.broadcast_to(columns, (parts, *columns.shape))
    return _cut(columns, mask.shape[1] // parts)


def _pass_on(arrays: tuple[Array, ...], axis: str) -> tuple[Array, ...]:
    """To the next device; what the one before had comes here."""
    size = jax.lax.axis_size(axis)
    return jax.lax.ppermute(arrays, axis, [(number, (number + 1) % size) for number in range(size)])


def _cut(x: Array, chunk: int) -> Array:
    """Chunks of axis 1, in front."""
    return jnp.moveaxis(x.reshape(x.shape[0], -1, chunk, *x.shape[2:]), 1, 0)


def _join(chunks: Array) -> Array:
    x = jnp.moveaxis(chunks, 0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])
