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
    """norm1 → SiLU → conv1 → norm2 → SiLU → conv2 along time, plus the input; norms are over all frames.

    Source: diffusers `TemporalResnetBlock`, as the temporal decoder of Stable Video Diffusion uses it (no noise level).
    """

    eps: float = 1e-5
    groups: int = 32
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b f h w c"]) -> Float[Array, "b f h w c"]:
        hidden = x
        for i in (1, 2):
            hidden = jax.nn.silu(GroupNorm(self.groups, self.eps, name=f"norm{i}")(hidden))
            hidden = TemporalConv(x.shape[-1], self.dtype, name=f"conv{i}")(hidden)
        return x + hidden


class AlphaBlender(nn.Module):
    """(1 − s) · spatial + s · temporal with one learned s = sigmoid(mix_factor)."""

    @nn.compact
    def __call__(self, spatial: Float[Array, "*shape"], temporal: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        share = jax.nn.sigmoid(self.param("mix_factor", nn.initializers.zeros, (1,))).astype(spatial.dtype)
        return spatial + share * (temporal - spatial)


class SpatioTemporalResnetBlock(nn.Module):
    """A residual block per frame, one along time on its result, and a blend of the two.

    Source: diffusers `SpatioTemporalResBlock` with `merge_strategy="learned"`, as the temporal decoder uses it.
    """

    channels: int
    groups: int = 32
    eps: float = 1e-6
    temporal_eps: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "bf h w c"], frames: int) -> Float[Array, "bf h w out"]:
        """`x` holds clips of `frames` frames, one after the other."""
        spatial = ResnetBlock(self.channels, self.groups, self.eps, self.dtype, name="spatial_res_block")(x)
        video = spatial.reshape(-1, frames, *spatial.shape[1:])
        temporal = TemporalResnetBlock(self.temporal_eps, self.groups, self.dtype, name="temporal_res_block")(video)
        return AlphaBlender(name="time_mixer")(spatial, temporal.reshape(spatial.shape))


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
