"""Sinusoids: of noise levels, with the two layers that follow, of positions in time and of places in a picture; rotations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from portrait_jax.typing import Array, Float, Num


def timestep_embedding(timestep: Num[Array, " b"], width: int) -> Float[Array, "b d"]:
    """[cos, sin] halves at frequencies 10000^(−j/half), always float32 (Stable Diffusion: flip_sin_to_cos, no shift).

    `width` must be even.
    """
    half = width // 2
    frequencies = np.exp(-np.log(10000.0) * np.arange(half) / half).astype(np.float32)
    angles = timestep.astype(jnp.float32)[:, None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def position_table(length: int, width: int) -> np.ndarray:
    """Interleaved sinusoids (length, width) float32: sin in even, cos in odd columns (the motion modules' table)."""
    angles = np.arange(length)[:, None] * np.exp(-np.log(10000.0) * np.arange(0, width, 2) / width)
    table = np.zeros((length, width), np.float32)
    table[:, 0::2] = np.sin(angles)
    table[:, 1::2] = np.cos(angles[:, : width // 2])
    return table


def halves_table(length: int, width: int) -> np.ndarray:
    """Sinusoids (length, width) float32 in halves: [sin, cos] of position · 10000^(−k/half) (MAE's and diffusers' table)."""
    half = width // 2
    angles = np.arange(length)[:, None] * 10000.0 ** (-np.arange(half) / half)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1).astype(np.float32)


def patch_table(height: int, width: int, features: int) -> np.ndarray:
    """`halves_table` of the column, then of the row, each half of `features`: (height, width, features) float32."""
    columns, rows = halves_table(width, features // 2), halves_table(height, features // 2)
    shape = (height, width, features // 2)
    return np.concatenate([np.broadcast_to(columns[None], shape), np.broadcast_to(rows[:, None], shape)], axis=-1)


def place_table(height: int, width: int, octaves: int = 4) -> np.ndarray:
    """Sinusoids (height, width, 4·octaves) float32 of x and y in 0..1: half a wave over the picture, then twice as many
    each octave (the features of NeRF, Mildenhall et al. 2020)."""
    y, x = np.mgrid[:height, :width]
    place = np.stack([(x + 0.5) / width, (y + 0.5) / height], axis=-1)
    angles = (place[..., None] * np.pi * 2.0 ** np.arange(octaves)).reshape(height, width, -1)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1).astype(np.float32)


def rotary_angles(positions: Sequence[np.ndarray], widths: Sequence[int]) -> np.ndarray:
    """Angles (product of lengths, Σ widths) float32 of rotary embedding along several axes (RoPE, arXiv 2104.09864).

    Each axis has its own part of a head: at position p a part of width d turns by p · 10000^(−2k/d), k = 0 … d/2 − 1, every
    angle twice in a row. Rows run over the positions of the last axis fastest.
    """
    grids = np.meshgrid(*positions, indexing="ij")
    frequencies = [10000.0 ** (-np.arange(0, width, 2) / width) for width in widths]
    parts = [grid.reshape(-1, 1) * frequency for grid, frequency in zip(grids, frequencies, strict=True)]
    return np.repeat(np.concatenate(parts, axis=-1), 2, axis=-1).astype(np.float32)


def rotate(x: Float[Array, "b n heads d"], angles: Float[np.ndarray, "n d"]) -> Float[Array, "b n heads d"]:
    """Turns each pair (x₀, x₁), (x₂, x₃) … of a head by its angle, in float32."""
    wide = x.astype(jnp.float32)
    turned = jnp.stack([-wide[..., 1::2], wide[..., 0::2]], axis=-1).reshape(wide.shape)
    return (wide * np.cos(angles)[:, None] + turned * np.sin(angles)[:, None]).astype(x.dtype)


class TimestepEmbedding(nn.Module):
    """Linear, SiLU, linear on a sinusoid; names linear_1 and linear_2."""

    width: int
    dtype: Any = jnp.float32
    out: int | None = None
    """Of the result, if that is another width."""

    @nn.compact
    def __call__(self, sinusoid: Float[Array, "b d"]) -> Float[Array, "b _"]:
        hidden = jax.nn.silu(nn.Dense(self.width, dtype=self.dtype, name="linear_1")(sinusoid))
        return nn.Dense(self.out or self.width, dtype=self.dtype, name="linear_2")(hidden)
