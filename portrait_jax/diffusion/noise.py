"""Where sampling starts: noise of neighbouring frames, which may have a part in common, and blurred latents to add it to."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from portrait_jax.errors import ConfigError
from portrait_jax.typing import Array, Float, PRNGKeyArray


def noise_alike(key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "*shape"]:
    """Unit-variance noise of this shape, the same for every item of the batch: each has what it has alone."""
    return jnp.broadcast_to(jax.random.normal(key, (1, *shape[1:]), jnp.float32), shape)


def mixed_noise(
    own: Float[Array, "b f h w c"], common: Float[Array, "b 1 h w c"], share: float
) -> Float[Array, "b f h w c"]:
    """√(1−share)·own + √share·common: unit variance, and `share` is the correlation between frames (PYoCo, arXiv 2305.10474).

    What the network leaves to chance then changes less from frame to frame.

    Raises:
        ConfigError: unless 0 <= share <= 1.
    """
    if not 0 <= share <= 1:
        raise ConfigError(f"the share of common noise must lie in 0..1, not {share}")
    return (1 - share) ** 0.5 * own + share**0.5 * common


def blurred(latents: Float[Array, "*batch h w c"], size: int = 9, sigma: float = 18.0) -> Float[Array, "*batch h w c"]:
    """Gaussian blur with `size` taps (odd) a side; latents are mirrored at their edges, which do not repeat.

    The defaults nearly average 9×9 latents: what is left says where colours lie, and nothing of a face's expression.
    """
    reach = size // 2
    taps = np.exp(-(np.arange(-reach, reach + 1.0) ** 2) / (2 * sigma**2))
    for axis in (latents.ndim - 3, latents.ndim - 2):
        length = latents.shape[axis]
        padding = [(0, 0)] * latents.ndim
        padding[axis] = (reach, reach)
        padded = jnp.pad(latents, padding, mode="reflect")
        latents = jnp.zeros_like(latents)
        for i, tap in enumerate(taps / taps.sum()):
            latents += float(tap) * jax.lax.slice_in_dim(padded, i, i + length, axis=axis)
    return latents
