"""Group, layer, root-mean-square and stored-statistics batch normalisation in float32, whatever the compute type."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from portrait_jax.errors import ConfigError
from portrait_jax.typing import Array, Float


def group_norm(
    x: Float[Array, "b *space c"], scale: Float[Array, " c"], bias: Float[Array, " c"], groups: int, eps: float
) -> Float[Array, "b *space c"]:
    """Normalises over space and the channels of each group, per batch item.

    Statistics are summed per channel first and joined per group on the small result: both passes over `x` then run along
    its contiguous channels. Centring before squaring costs a pass but keeps the variance exact for large means.
    """
    items, channels = x.shape[0], x.shape[-1]
    space = tuple(range(1, x.ndim - 1))
    spread = (items,) + (1,) * len(space) + (channels,)

    def group_mean(per_channel: Array) -> Array:
        grouped = per_channel.reshape(items, groups, -1).mean(-1, keepdims=True)
        return jnp.broadcast_to(grouped, (items, groups, channels // groups)).reshape(spread)

    wide = x.astype(jnp.float32)
    centred = wide - group_mean(wide.mean(space))
    gain = jax.lax.rsqrt(group_mean(jnp.square(centred).mean(space)) + eps) * scale
    return (centred * gain + bias).astype(x.dtype)


def layer_norm(
    x: Float[Array, "*batch d"], scale: Float[Array, " d"], bias: Float[Array, " d"], eps: float
) -> Float[Array, "*batch d"]:
    """Normalises over the last axis."""
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean(-1, keepdims=True)
    gain = jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + eps)
    return (centred * gain * scale + bias).astype(x.dtype)


class GroupNorm(nn.Module):
    """`group_norm` with a learned scale and bias per channel; raises ConfigError if groups do not divide channels."""

    groups: int = 32
    eps: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"]) -> Float[Array, "b *space c"]:
        channels = x.shape[-1]
        if channels % self.groups:
            raise ConfigError(
                f"{self.groups} norm groups do not divide {channels} channels; choose another group count"
            )
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        return group_norm(x, scale, bias, self.groups, self.eps)


class LayerNorm(nn.Module):
    """`layer_norm` with a learned scale and bias per feature."""

    eps: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        return layer_norm(x, scale, bias, self.eps)


class AdaLayerNorm(nn.Module):
    """`layer_norm` whose shift and scale a condition tells: norm(x) · (1 + scale) + shift, by the linear layer `linear` on
    SiLU(condition), zero at the start; its first half is the shift."""

    eps: float = 1e-6
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], condition: Float[Array, "b e"]) -> Float[Array, "b n d"]:
        width = x.shape[-1]
        zero = nn.initializers.zeros
        told = nn.Dense(2 * width, kernel_init=zero, dtype=self.dtype, name="linear")(jax.nn.silu(condition))
        shift, scale = jnp.split(told[:, None], 2, axis=-1)
        return layer_norm(x, jnp.ones(width), jnp.zeros(width), self.eps) * (1 + scale) + shift


class RMSNorm(nn.Module):
    """x / √(mean x² + eps) with a learned scale per feature, nothing subtracted (arXiv 1910.07467)."""

    eps: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        wide = x.astype(jnp.float32)
        return (wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + self.eps) * scale).astype(x.dtype)


class BatchNorm(nn.Module):
    """Normalises with the stored statistics; names scale, bias, running_mean, running_var (all parameters, none trained)."""

    eps: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "*batch c"]) -> Float[Array, "*batch c"]:
        shape = (x.shape[-1],)
        ones, zeros = nn.initializers.ones, nn.initializers.zeros
        scale, variance = self.param("scale", ones, shape), self.param("running_var", ones, shape)
        bias, mean = self.param("bias", zeros, shape), self.param("running_mean", zeros, shape)
        gain = scale * jax.lax.rsqrt(variance + self.eps)
        return (x.astype(jnp.float32) * gain + (bias - mean * gain)).astype(x.dtype)
