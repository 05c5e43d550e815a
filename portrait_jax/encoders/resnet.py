"""ResNet (He et al. 2016; torchvision's names) without its classifier, with batch or group norms: a picture to one vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from portrait_jax.nn.conv import conv3x3
from portrait_jax.nn.norms import BatchNorm, GroupNorm
from portrait_jax.typing import Array, Float

Features = Float[Array, "_ _ _ _"]
EXPANSION = 4
"""Outgoing channels of a block per channel inside."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's pictures in 0..1, red first: what published weights expect to be taken off."""


@dataclass(frozen=True)
class ResNetConfig:
    """Sizes; the defaults are ResNet-50's."""

    layers: tuple[int, ...] = (3, 4, 6, 3)
    """Blocks per stage; each stage but the first halves space."""
    channels: tuple[int, ...] = (64, 128, 256, 512)
    """Channels inside the blocks of a stage."""
    bottleneck: bool = True
    """Blocks of three convolutions; False: of two 3×3 convolutions, as in ResNet-18."""
    norm_groups: int | None = None
    """Group norms with so many groups; None: batch norms with stored statistics."""
    out: int | None = None
    """Width of a last linear layer `fc`; None: there is none."""
    normalise: bool = True
    """Takes ImageNet's mean and deviation off the pictures."""

    @property
    def width(self) -> int:
        """Length of the result."""
        return self.out or (EXPANSION if self.bottleneck else 1) * self.channels[-1]


class Block(nn.Module):
    """1×1, 3×3 (with the stride) and 1×1 convolution, or two 3×3 ones (the first with the stride), each with norm, plus the
    input (through `downsample_0`, `_1` where its shape differs)."""

    config: ResNetConfig
    channels: int
    stride: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Features) -> Features:
        groups = self.config.norm_groups

        def pointwise(channels: int, stride: int, name: str) -> nn.Conv:
            step = (stride, stride)
            return nn.Conv(channels, (1, 1), step, padding="VALID", use_bias=False, dtype=self.dtype, name=name)

        def wide(stride: int, name: str) -> nn.Module:
            return conv3x3(self.channels, stride=stride, bias=False, dtype=self.dtype, name=name)

        out = (EXPANSION if self.config.bottleneck else 1) * self.channels
        convs: tuple[nn.Module, ...]
        if self.config.bottleneck:
            convs = (pointwise(self.channels, 1, "conv1"), wide(self.stride, "conv2"), pointwise(out, 1, "conv3"))
        else:
            convs = (wide(self.stride, "conv1"), wide(1, "conv2"))
        hidden = x
        for i, conv in enumerate(convs, 1):
            hidden = make_norm(groups, f"bn{i}")(conv(hidden))
            hidden = jax.nn.relu(hidden) if i < len(convs) else hidden
        if self.stride > 1 or x.shape[-1] != out:
            x = make_norm(groups, "downsample_1")(pointwise(out, self.stride, "downsample_0")(x))
        return jax.nn.relu(x + hidden)


def make_norm(groups: int | None, name: str) -> nn.Module:
    """A group norm, or without groups one with stored statistics."""
    return BatchNorm(name=name) if groups is None else GroupNorm(groups, name=name)


class ResNet(nn.Module):
    """Pictures to vectors: the mean over space of the last stage, and what `fc` makes of it if there is one.

    Batch norms use stored statistics (leaves `running_mean`, `running_var`, which no pattern of trainable leaves should
    match): a batch is small, and its pictures must not depend on each other.
    """

    config: ResNetConfig = ResNetConfig()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image_01: Float[Array, "b h w 3"]) -> Float[Array, "b d"]:
        """`image_01`: RGB in 0..1, sides of at least 32 pixels. The result is float32 of `config.width`."""
        config, x = self.config, image_01
        if config.normalise:
            x = (image_01 - jnp.asarray(MEAN)) / jnp.asarray(STD)
        sides = ((3, 3), (3, 3))
        x = nn.Conv(config.channels[0], (7, 7), (2, 2), sides, use_bias=False, dtype=self.dtype, name="conv1")(x)
        x = jax.nn.relu(make_norm(config.norm_groups, "bn1")(x))
        x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        for i, (channels, layers) in enumerate(zip(config.channels, config.layers), 1):
            for j in range(layers):
                x = Block(config, channels, 2 if i > 1 and j == 0 else 1, self.dtype, name=f"layer{i}_{j}")(x)
        x = x.astype(jnp.float32).mean((1, 2))
        return x if config.out is None else nn.Dense(config.out, name="fc")(x)
