"""Motion between key expressions."""

from __future__ import annotations

import jax.numpy as jnp

from portrait_jax.errors import ShapeError
from portrait_jax.typing import Array, Float


def interpolate(keys: Float[Array, "n d"], positions: Float[Array, " f"]) -> Float[Array, "f d"]:
    """Motion latents on the polygon through key latents: f(i + a) = (1 − a) keys[i] + a keys[i + 1].

    Source: X-NeMo (arXiv 2507.23143), appendix D. Interpolate what the motion encoder gives, before the displacement of the
    face is joined to it; any portrait can be driven by the result.

    Args:
        keys: latents of at least one key expression, e.g. one frame each of a driving clip.
        positions: where on the polygon each frame lies: 0 is the first key, n − 1 the last; beyond them the ends hold.

    Raises:
        ShapeError: without a key.
    """
    if not len(keys):
        raise ShapeError("there is no key expression to interpolate; give at least one latent")
    last = len(keys) - 1
    at = jnp.clip(positions, 0, last)
    before = jnp.clip(jnp.floor(at).astype(int), 0, max(last - 1, 0))
    share = (at - before)[:, None]
    return (1 - share) * keys[before] + share * keys[jnp.minimum(before + 1, last)]


def key_positions(keys: int, frames: int, *, ease: bool = False) -> Float[Array, " f"]:
    """Positions for `interpolate`: evenly from the first key to the last; with `ease` resting at every key.

    `ease` replaces the share a between two keys by a² (3 − 2a), so that no expression is left or reached abruptly.
    """
    even = jnp.linspace(0.0, max(keys - 1, 0), frames)
    if not ease:
        return even
    share = even - jnp.floor(even)
    return jnp.floor(even) + share**2 * (3 - 2 * share)
