"""Pillow's bicubic resizing in whole numbers: equal to the last bit, so that a published encoder sees what it saw."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from portrait_jax.typing import Array, Int, Num

BITS = 22
"""Fraction bits of Pillow's weights."""


def bicubic_u8(image: Num[Array, "b h w c"], height: int, width: int) -> Int[Array, "b {height} {width} c"]:
    """Resizes values 0 … 255 (any integer type) as `Image.resize(…, BICUBIC)` does: columns first, each pass rounded; int32."""
    image = _pass(image.astype(jnp.int32), width, 2)
    return _pass(image, height, 1)


def _pass(image: Array, length: int, axis: int) -> Array:
    if image.shape[axis] == length:
        return image
    weights = jnp.asarray(bicubic_weights(image.shape[axis], length))
    contraction = {1: "bhwc,vh->bvwc", 2: "bhwc,vw->bhvc"}[axis]
    total = jnp.einsum(contraction, image, weights) + (1 << (BITS - 1))
    return jnp.clip(total >> BITS, 0, 255)


def bicubic_weights(old: int, new: int) -> np.ndarray:
    """Weights (new, old) int32 in units of 2^−22, antialiased when shrinking, cut off and normalised at the edges."""
    scale = old / new
    stretch = max(scale, 1.0)
    centre = (np.arange(new) + 0.5) * scale
    first = np.maximum((centre - 2 * stretch + 0.5).astype(int), 0)[:, None]
    last = np.minimum((centre + 2 * stretch + 0.5).astype(int), old)[:, None]
    place = np.arange(old)[None]
    x = np.abs((place + 0.5 - centre[:, None]) / stretch)
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0)) * ((place >= first) & (place < last))
    fixed = weights / weights.sum(1, keepdims=True) * (1 << BITS)
    return np.trunc(fixed + np.copysign(0.5, fixed)).astype(np.int32)


def plain_cubic_weights(old: int, new: int, scale: float | None = None) -> np.ndarray:
    """Weights (new, old) float32 of PyTorch's bicubic interpolation (a = −0.75) without antialiasing, borders repeated.

    `scale` is the factor by which coordinates grow; None: new / old.
    """
    place = (np.arange(new) + 0.5) / (scale or new / old) - 0.5
    first = np.floor(place).astype(int)
    weights = np.zeros((new, old))
    for tap in range(-1, 3):
        x, a = np.abs(place - (first + tap)), -0.75
        near, far = ((a + 2) * x - (a + 3)) * x * x + 1, ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        np.add.at(weights, (np.arange(new), np.clip(first + tap, 0, old - 1)), np.where(x <= 1, near, far))
    return weights.astype(np.float32)
