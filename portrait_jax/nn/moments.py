"""Mean and deviation of some frames of a clip, channel by channel, and bringing frames to given ones."""

from __future__ import annotations

import jax.numpy as jnp

from portrait_jax.typing import Array, Float

EPSILON = 1e-5


def moments(
    x: Float[Array, "b f h w c"], free: Float[Array, "*b f"]
) -> tuple[Float[Array, "b c"], Float[Array, "b c"]]:
    """Mean and (biased) standard deviation per clip and channel, over space and the frames where `free` is 1."""
    weight = free[..., None, None, None]
    weight = weight / (weight.sum(-4, keepdims=True) * x.shape[2] * x.shape[3])
    mean = (x * weight).sum((1, 2, 3))
    return mean, jnp.sqrt((jnp.square(x - mean[:, None, None, None]) * weight).sum((1, 2, 3)))


def align(
    x: Float[Array, "b f h w c"],
    free: Float[Array, "*b f"],
    mean: Float[Array, "b c"],
    deviation: Float[Array, "b c"],
    strength: float | Float[Array, " b"] = 1.0,
) -> Float[Array, "b f h w c"]:
    """Brings the frames where `free` is 1 to this mean and deviation, all together, as far as `strength` says; others stay."""
    own_mean, own_deviation = moments(x, free)

    def spread(value: Array) -> Array:
        return value[:, None, None, None]

    moved = (x - spread(own_mean)) / (spread(own_deviation) + EPSILON) * spread(deviation) + spread(mean)
    share = jnp.asarray(strength)[..., None, None, None, None] * free[..., None, None, None]
    return jnp.where(share > 0, share * moved + (1 - share) * x, x)
