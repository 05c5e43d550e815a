"""Convolutions of the Stable Diffusion family: 3×3 with PyTorch's padding, 1×1 as a matrix product, and over time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn

from portrait_jax.nn.convolve import SAME, Padding, convolve, convolve_video
from portrait_jax.typing import Array, Float

RIGHT_BOTTOM = ((0, 1), (0, 1))
"""Padding of the image autoencoder's stride-2 convolutions."""


class Conv3x3(nn.Module):
    """A 3×3 convolution by `convolve`, with the parameters of `nn.Conv`."""

    channels: int
    stride: int = 1
    padding: Padding = SAME
    use_bias: bool = True
    kernel_init: Callable[..., Array] = nn.initializers.lecun_normal()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _ _ out"]:
        kernel = self.param("kernel", self.kernel_init, (3, 3, x.shape[-1], self.channels))
        out = convolve(x.astype(self.dtype), kernel.astype(self.dtype), stride=self.stride, padding=self.padding)
        if not self.use_bias:
            return out
        return out + self.param("bias", nn.initializers.zeros, (self.channels,)).astype(self.dtype)


def conv3x3(
    channels: int,
    *,
    name: str,
    dtype: Any,
    stride: int = 1,
    padding: Padding = SAME,
    zero: bool = False,
    bias: bool = True,
) -> Conv3x3:
    """A 3×3 convolution; `zero` starts it at zero, so that a new branch begins as the identity."""
    init = nn.initializers.zeros if zero else nn.initializers.lecun_normal()
    return Conv3x3(channels, stride, padding, bias, init, dtype, name=name)


def fold(x: Float[Array, "b h w c"], size: int) -> Float[Array, "b _ _ _"]:
    """Squares of `size`×`size` pixels into channels."""
    return rearrange(x, "b (h y) (w x) c -> b h w (y x c)", y=size, x=size)


def unfold(x: Float[Array, "b h w c"], size: int) -> Float[Array, "b _ _ _"]:
    """The inverse of `fold`."""
    return rearrange(x, "b h w (y x c) -> b (h y) (w x) c", y=size, x=size)


def unshuffle(x: Float[Array, "b h w c"], size: int) -> Float[Array, "b _ _ _"]:
    """`fold` with PyTorch's order of channels (`PixelUnshuffle`): each colour's square of pixels stays together."""
    return rearrange(x, "b (h y) (w x) c -> b h w (c y x)", y=size, x=size)


class PointwiseConv(nn.Module):
    """A 1×1 convolution computed as a matrix product; its kernel keeps the convolution's shape (1, 1, in, out), or with
    `axes` 3 (1, 1, 1, in, out)."""

    channels: int
    dtype: Any = jnp.float32
    zero: bool = False
    """Starts at zero, so that a new branch begins as the identity."""
    axes: int = 2

    @nn.compact
    def __call__(self, x: Float[Array, "*batch c"]) -> Float[Array, "*batch out"]:
        shape = (*(1,) * self.axes, x.shape[-1], self.channels)
        init = nn.initializers.zeros if self.zero else nn.initializers.lecun_normal()
        kernel = self.param("kernel", init, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        return x.astype(self.dtype) @ kernel.reshape(shape[-2:]).astype(self.dtype) + bias.astype(self.dtype)


class CausalConv(nn.Module):
    """A 3×3×3 convolution that sees no later frame; kernel (3, 3, 3, in, out) under `conv`.

    Before the first frame stand two copies of it or, in a stream, the last two frames of the call before: `cache` maps the
    paths of such layers to them. The layer reads its entry and leaves the next one there.
    """

    channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b f h w c"], cache: dict[str, Array]) -> Float[Array, "b f h w out"]:
        x, key = x.astype(self.dtype), "/".join(self.path)
        before = cache.get(key, jnp.repeat(x[:, :1], 2, axis=1))
        x = jnp.concatenate([before, x], axis=1)
        cache[key] = x[:, -2:]
        return VideoConv(self.channels, self.dtype, name="conv")(x)


class VideoConv(nn.Module):
    """A 3×3×3 convolution by `convolve_video`, with the parameters of `nn.Conv`; two frames fewer come out."""

    channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b m h w c"]) -> Float[Array, "b _ h w out"]:
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (3, 3, 3, x.shape[-1], self.channels))
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        return convolve_video(x.astype(self.dtype), kernel.astype(self.dtype)) + bias.astype(self.dtype)


class TemporalConv(nn.Module):
    """A convolution over three frames at every pixel, zeros beyond the ends; kernel (3, 1, 1, in, out)."""

    channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b f h w c"]) -> Float[Array, "b f h w out"]:
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (3, 1, 1, x.shape[-1], self.channels))
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        # As a two-dimensional convolution over (time, place): every backend has a fast one.
        flat = x.astype(self.dtype).reshape(*x.shape[:2], -1, x.shape[-1])
        out = jax.lax.conv_general_dilated(
            flat, kernel[:, 0].astype(self.dtype), (1, 1), ((1, 1), (0, 0)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return (out + bias.astype(self.dtype)).reshape(*x.shape[:-1], self.channels)
