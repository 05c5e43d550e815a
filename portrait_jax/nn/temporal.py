"""Temporal transformer (motion module): every pixel attends along time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from portrait_jax.errors import ShapeError
from portrait_jax.nn.attention import attention, split_heads
from portrait_jax.nn.embeddings import position_table
from portrait_jax.nn.feedforward import FeedForward
from portrait_jax.nn.norms import GroupNorm, LayerNorm
from portrait_jax.nn.slots import Slot
from portrait_jax.typing import Array, Float


@dataclass(frozen=True)
class TemporalConfig:
    """Motion modules of a backbone (AnimateDiff v2 by default)."""

    num_heads: int = 8
    max_length: int = 32
    """Longest window in frames: the length of the position table."""
    levels: tuple[int, ...] | None = None
    """Resolution levels that have them, 0 = finest; None: all."""
    mid: bool = True
    norm_groups: int = 32
    attentions: int = 2
    """Temporal self-attentions per module."""
    joint_norm: bool = False
    """Group norm over all frames of a window instead of each frame: diffusers' convention. Same weights, other numbers."""
    name: str = "motion_modules"


Attend = Callable[..., Array]
"""(name of the attention layer, normalised tokens "b f n c", context …) → tokens; called inside a compact method."""


class TemporalAttention(nn.Module):
    """Self-attention along time of each pixel, with sinusoid positions added to its normalised input."""

    heads: int
    max_length: int = 32
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b f n c"]) -> Float[Array, "b f n c"]:
        frames, width = x.shape[1], x.shape[-1]
        if frames > self.max_length:
            raise ShapeError(f"a window of {frames} frames exceeds the position table of {self.max_length}; shorten it")
        x = x + jnp.asarray(position_table(self.max_length, width)[:frames, None], x.dtype)

        def project(name: str) -> Array:
            y = split_heads(nn.Dense(width, use_bias=False, dtype=self.dtype, name=name)(x), self.heads)
            return jnp.swapaxes(y, 1, 2).reshape(-1, frames, *y.shape[3:])

        out = attention(project("to_q"), project("to_k"), project("to_v"), implementation="xla")
        out = jnp.swapaxes(out.reshape(x.shape[0], x.shape[2], frames, width), 1, 2)
        return nn.Dense(width, dtype=self.dtype, name="to_out_0")(out)


class AttentionStack(nn.Module):
    """Attentions of one kind, then a feed-forward, each on a normalised input with a residual."""

    attentions: int
    attend: Attend
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b f n c"], *context: Array) -> Float[Array, "b f n c"]:
        for i in range(self.attentions):
            x = x + self.attend(f"attention_blocks_{i}", LayerNorm(name=f"norms_{i}")(x), *context)
        return x + FeedForward(dtype=self.dtype, name="ff")(LayerNorm(name="ff_norm")(x))


class VideoTransformer(nn.Module):
    """Group norm per frame (or joint), linear, `AttentionStack`, linear (zero at the start), plus the input.

    Source: AnimateDiff `VanillaTemporalModule`, without the outer level that checkpoints name `temporal_transformer`.
    """

    attentions: int
    attend: Attend
    norm_groups: int = 32
    joint_norm: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b f h w c"], *context: Array) -> Float[Array, "b f h w c"]:
        """`context` is handed to the attentions."""
        batch, frames, height, width, channels = x.shape
        items = batch if self.joint_norm else batch * frames
        hidden = GroupNorm(self.norm_groups, 1e-6, name="norm")(x.reshape(items, -1, channels))
        hidden = nn.Dense(channels, dtype=self.dtype, name="proj_in")(hidden)
        hidden = hidden.reshape(batch, frames, height * width, channels)
        stack = AttentionStack(self.attentions, self.attend, self.dtype, name="transformer_blocks_0")
        zero = nn.initializers.zeros
        out = nn.Dense(channels, dtype=self.dtype, kernel_init=zero, name="proj_out")(stack(hidden, *context))
        return x + out.reshape(x.shape)


class TemporalTransformer(nn.Module):
    """A `VideoTransformer` along time: every pixel attends to itself in the other frames.

    The position table is computed, not a parameter; every window starts at position 0. Raises ShapeError for more frames
    than the table has.
    """

    config: TemporalConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b f h w c"]) -> Float[Array, "b f h w c"]:
        config = self.config

        def attend(name: str, x: Array) -> Array:
            return TemporalAttention(config.num_heads, config.max_length, self.dtype, name=name)(x)

        module = VideoTransformer(
            config.attentions, attend, config.norm_groups, config.joint_norm, self.dtype, name="temporal_transformer"
        )
        return module(x)


def temporal_slot(config: TemporalConfig) -> Slot:
    """Puts a temporal transformer after each layer of the configured levels."""

    def make(site, *, dtype, name):
        return TemporalTransformer(config, dtype, name=name)

    return Slot("after_layer", config.name, make, levels=config.levels, mid=config.mid, over_time=True)
