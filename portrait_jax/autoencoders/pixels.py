"""Pixel ranges: files and records hold 0..255, networks see [−1, 1]."""

import jax.numpy as jnp
import numpy as np

from portrait_jax.typing import Array, Float


def to_pm1(image_u8: Array) -> Float[Array, "*b h w 3"]:
    """0..255 → [−1, 1]."""
    return jnp.asarray(image_u8).astype(jnp.float32) / 127.5 - 1


def to_u8(image_pm1: Array) -> np.ndarray:
    """[−1, 1] → 0..255, clipped and rounded, on the host."""
    return np.asarray(jnp.clip(jnp.round((image_pm1.astype(jnp.float32) + 1) * 127.5), 0, 255).astype(jnp.uint8))
