"""Residual convolution blocks of pictures and of video, and halving and doubling of space."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from portrait_jax.nn.conv import SAME, PointwiseConv, TemporalConv, conv3x3
from portrait_jax.nn.norms import GroupNorm
from portrait_jax.typing import Array, Float


class ResnetBlock(nn.Module):
    """norm1 → SiLU → conv1 → + time → norm2 → SiLU → conv2, plus the input (through conv_shortcut if the width changes).

    Source: diffusers `ResnetBlock2D`, as used by Stable Diffusion and its autoencoder (there without time).
    """

    channels: int
    groups: int = 32
    eps: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "bf h w c"], time: Float[Array, "b d"] | None = None
    ) -> Float[Array, "bf h w out"]:
        """`time` is the embedded noise level; consecutive items of `x` (frames of one clip) share it."""
        hidden = jax.nn.silu(GroupNorm(self.groups, self.eps, name="norm1")(x))
        hidden = conv3x3(self.channels, dtype=self.dtype, name="conv1")(hidden)
        if time is not None:
            shift = nn.Dense(self.channels, dtype=self.dtype, name="time_emb_proj")(jax.nn.silu(time))
            hidden = hidden + jnp.repeat(shift, x.shape[0] // time.shape[0], axis=0)[:, None, None]
        hidden = jax.nn.silu(GroupNorm(self.groups, self.eps, name="norm2")(hidden))
        hidden = conv3x3(self.channels, dtype=self.dtype, name="conv2")(hidden)
        if x.shape[-1] != self.channels:
            x = PointwiseConv(self.channels, dtype=self.dtype, name="conv_shortcut")(x)
        return x + hidden


class TemporalResnetBlock(nn.Module):
    """norm1 → SiLU → conv1 → + time → norm2 → SiLU → conv2 along time, plus the input; norms are over all frames.

    Source: diffusers `TemporalResnetBlock`, as Stable Video Diffusion uses it; its temporal decoder gives no noise level.
    """

    eps: float = 1e-5
    groups: int = 32
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b f h w c"], time: Float[Array, "t e"] | None = None
    ) -> Float[Array, "b f h w c"]:
        """`time` is the embedded noise level, one row per clip or per frame."""
        channels = x.shape[-1]

        def convolved(number: int, x: Array) -> Array:
            x = jax.nn.silu(GroupNorm(self.groups, self.eps, name=f"norm{number}")(x))
            return TemporalConv(channels, self.dtype, name=f"conv{number}")(x)

        hidden = convolved(1, x)
        if time is not None:
            shift = nn.Dense(channels, dtype=self.dtype, name="time_emb_proj")(jax.nn.silu(time))
            hidden = hidden + shift.reshape(x.shape[0], -1, 1, 1, channels)
        return x + convolved(2, hidden)


class AlphaBlender(nn.Module):
    """s · first + (1 − s) · second with one learned s = sigmoid(mix_factor)."""

    start: float = 0.0
    """Of mix_factor in a new network."""

    @nn.compact
    def __call__(self, first: Float[Array, "*shape"], second: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        share = jax.nn.sigmoid(self.param("mix_factor", nn.initializers.constant(self.start), (1,)))
        return second + share.astype(first.dtype) * (first - second)


class SpatioTemporalResnetBlock(nn.Module):
    """A residual block per frame, one along time on its result, and a blend of the two.

    Source: diffusers `SpatioTemporalResBlock`; its backbone learns the share of the spatial part, its temporal decoder
    that of the temporal one (`temporal_share`).
    """

    channels: int
    groups: int = 32
    eps: float = 1e-6
    temporal_eps: float = 1e-5
    temporal_share: bool = True
    start: float = 0.0
    """Of the blend's mix_factor in a new network."""
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "bf h w c"], frames: int, time: Float[Array, "t e"] | None = None
    ) -> Float[Array, "bf h w out"]:
        """`x` holds clips of `frames` frames, one after the other; `time` has one row per clip or per frame."""
        spatial = ResnetBlock(self.channels, self.groups, self.eps, self.dtype, name="spatial_res_block")(x, time)
        video = spatial.reshape(-1, frames, *spatial.shape[1:])
        temporal = TemporalResnetBlock(self.temporal_eps, self.groups, self.dtype, name="temporal_res_block")(
            video, time
        ).reshape(spatial.shape)
        pair = (temporal, spatial) if self.temporal_share else (spatial, temporal)
        return AlphaBlender(self.start, name="time_mixer")(*pair)


class Downsample(nn.Module):
    """Halves space by a stride-2 convolution."""

    channels: int
    padding: tuple = SAME
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 out"]:
        return conv3x3(self.channels, stride=2, padding=self.padding, dtype=self.dtype, name="conv")(x)


class Upsample(nn.Module):
    """Nearest neighbours to twice the size, or to a given one, then a 3×3 convolution."""

    channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], size: tuple[int, int] | None = None) -> Float[Array, "b h2 w2 out"]:
        height, width = size or (2 * x.shape[1], 2 * x.shape[2])
        x = nearest(nearest(x, height, axis=1), width, axis=2)
        return conv3x3(self.channels, dtype=self.dtype, name="conv")(x)


def nearest(x: Array, length: int, axis: int) -> Array:
    """Resizes one axis by nearest neighbours, source index = floor(index · old / new) as in PyTorch."""
    old = x.shape[axis]
    if length % old == 0:
        return jnp.repeat(x, length // old, axis=axis)
    return jnp.take(x, np.arange(length) * old // length, axis=axis)
