"""Drawing codes from a prior, one after the other, in one `lax.scan`."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from portrait_jax.errors import ConfigError
from portrait_jax.typing import Array, Float, Int, PRNGKeyArray

Scores = Callable[[Int[Array, "b n"]], Float[Array, "b n k"]]
"""Tokens → scores of the code that follows each."""


def keep_likely(scores: Float[Array, "b k"], top_p: float) -> Float[Array, "b k"]:
    """Sets to −∞ all but the likeliest codes that together reach the probability `top_p`.

    Nucleus sampling (Holtzman et al. 2020, arXiv 1904.09751); the likeliest code always stays.
    """
    order = jnp.argsort(-scores, axis=-1)
    likely = jax.nn.softmax(jnp.take_along_axis(scores, order, axis=-1), axis=-1)
    before = jnp.cumsum(likely, axis=-1) - likely
    # Back from the sorted order to the codes'.
    before = jnp.take_along_axis(before, jnp.argsort(order, axis=-1), axis=-1)
    return jnp.where(before < top_p, scores, -jnp.inf)


def continue_codes(
    scores: Scores,
    start: Int[Array, " b"],
    prefix: Int[Array, "b n"],
    count: int,
    context: int,
    rng: PRNGKeyArray,
    *,
    temperature: float = 1.0,
    top_p: float = 0.95,
) -> Int[Array, "b count"]:
    """`count` codes that follow `prefix`.

    Each step reads the start token and the last `context` codes anew. Positions are learnt: once the window slides, every
    code has another one, and what was computed before could not be kept. Windows as in training are short enough.

    Args:
        scores: the prior; called with tokens "b (context + 1)".
        start: the token before each window.
        prefix: codes that are given, maybe none; of many the last `context` are read.
        context: the most codes that a window holds, at least 1: one less than in training.
        temperature: divides the scores; small ones make the likeliest code certain.
        top_p: see `keep_likely`; 1 keeps all.

    Raises:
        ConfigError: for a temperature, `top_p` or context out of range.
    """
    if temperature <= 0 or not 0 < top_p <= 1 or context < 1:
        raise ConfigError(
            f"sampling needs temperature {temperature} > 0, 0 < top_p {top_p} <= 1, context {context} >= 1"
        )
    prefix = prefix[:, -context:] if prefix.shape[1] > context else prefix
    held = prefix.shape[1]
    window = jnp.pad(prefix, ((0, 0), (0, context - held)))

    def step(carry: tuple[Array, Array], key: PRNGKeyArray) -> tuple[tuple[Array, Array], Array]:
        window, held = carry
        # What lies behind the held codes is not seen: attention looks back only.
        found = scores(jnp.concatenate([start[:, None], window], axis=1))
        last = jax.lax.dynamic_index_in_dim(found, held, axis=1, keepdims=False) / temperature
        code = jax.random.categorical(key, keep_likely(last, top_p)).astype(window.dtype)
        full = jnp.concatenate([window[:, 1:], code[:, None]], axis=1)
        room = jax.lax.dynamic_update_slice_in_dim(window, code[:, None], jnp.minimum(held, context - 1), axis=1)
        return (jnp.where(held == context, full, room), jnp.minimum(held + 1, context)), code

    _, codes = jax.lax.scan(step, (window, jnp.int32(held)), jax.random.split(rng, count))
    return codes.T
