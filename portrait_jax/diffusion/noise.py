"""Noise of neighbouring frames, which may have a part in common."""

from __future__ import annotations

from portrait_jax.errors import ConfigError
from portrait_jax.typing import Array, Float


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
