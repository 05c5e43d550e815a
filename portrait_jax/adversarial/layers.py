"""Layers of StyleGAN2 (Karras et al. 2020, arXiv 1912.04958): equalised weights, modulated convolutions, filtered resizing.

Weights start at unit variance and are scaled when used ("equalised"), so that every layer learns at one speed.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from portrait_jax.nn.convolve import convolve as convolve_3x3
from portrait_jax.typing import Array, Float

Images = Float[Array, "b h w c"]
TAPS = (0.125, 0.375, 0.375, 0.125)
"""The low-pass filter [1, 3, 3, 1] along each axis."""
DIMS = ("NHWC", "HWIO", "NHWC")


def leaky(x: Array) -> Array:
    """Leaky ReLU of slope 0.2 that keeps the variance."""
    return jax.nn.leaky_relu(x, 0.2) * 2**0.5


def blur(x: Images, before: int, after: int, gain: float = 1.0) -> Float[Array, "b _ _ c"]:
    """The filter along both axes, on `x` padded by zeros; each side becomes before + after − 3 pixels longer."""
    for axis in (1, 2):
        pads = [(0, 0)] * 4
        pads[axis] = (before, after)
        padded = jnp.pad(x, pads)
        length = padded.shape[axis] - len(TAPS) + 1
        parts = [tap * jax.lax.slice_in_dim(padded, i, i + length, axis=axis) for i, tap in enumerate(TAPS)]
        x = sum(parts[1:], parts[0])
    return x * gain


def upsample(x: Images) -> Float[Array, "b _ _ c"]:
    """Twice the size: zeros between the pixels, then the filter."""
    between = [(0, 0, 0), (0, 1, 1), (0, 1, 1), (0, 0, 0)]
    return blur(jax.lax.pad(x, jnp.zeros((), x.dtype), between), 2, 1, gain=4.0)


def convolve(x: Images, kernel: Float[Array, "s s c out"], resize: str = "") -> Float[Array, "b _ _ out"]:
    """A convolution that keeps the size, doubles it (`up`) or halves it (`down`); odd kernels of `s` pixels.

    The filter lies between convolution and resizing, as in the paper: after a transposed one, before a strided one.
    """
    same = kernel.shape[0] // 2
    if resize == "up":
        between = jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (0, 0, 1), (0, 0, 1), (0, 0, 0)])
        return blur(_convolve(between, kernel, 1, 2 * same), 1, 1, gain=4.0)
    if resize == "down":
        return _convolve(blur(x, 1 + same, 1 + same), kernel, 2, 0)
    return _convolve(x, kernel, 1, same)


def _convolve(x: Images, kernel: Float[Array, "s s c out"], stride: int, pad: int) -> Float[Array, "b _ _ out"]:
    pads = ((pad, pad), (pad, pad))
    if len(kernel) == 3:
        return convolve_3x3(x, kernel, stride=stride, padding=pads)
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=DIMS)


class EqualDense(nn.Module):
    """A linear layer with equalised weights."""

    features: int
    bias: float = 0.0
    """Where the bias starts."""
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch out"]:
        kernel = self.param("kernel", nn.initializers.normal(1.0), (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.constant(self.bias), (self.features,))
        return x.astype(self.dtype) @ (kernel * x.shape[-1] ** -0.5).astype(self.dtype) + bias.astype(self.dtype)


class EqualConv(nn.Module):
    """A convolution with equalised weights."""

    features: int
    size: int = 3
    resize: str = ""
    use_bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Images) -> Float[Array, "b _ _ out"]:
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.normal(1.0), shape)
        scaled = kernel * (self.size**2 * x.shape[-1]) ** -0.5
        out = convolve(x.astype(self.dtype), scaled.astype(self.dtype), self.resize)
        if not self.use_bias:
            return out
        return out + self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)


class ModulatedConv(nn.Module):
    """A convolution whose incoming channels a style scales, and whose outputs are brought back to unit variance.

    Scaling kernels per item (the paper's section 2.2) equals scaling inputs before and outputs after one shared
    convolution, which needs no kernel per item.
    """

    features: int
    size: int = 3
    resize: str = ""
    demodulate: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Images, style: Float[Array, "b d"]) -> Float[Array, "b _ _ out"]:
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.normal(1.0), shape) * (self.size**2 * x.shape[-1]) ** -0.5
        scale = EqualDense(x.shape[-1], bias=1.0, name="modulation")(style)
        out = x.astype(self.dtype) * scale[:, None, None].astype(self.dtype)
        out = convolve(out, kernel.astype(self.dtype), self.resize)
        if self.demodulate:
            power = jnp.square(scale) @ jnp.square(kernel).sum((0, 1))
            out = out * jax.lax.rsqrt(power + 1e-8)[:, None, None].astype(self.dtype)
        return out + self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
