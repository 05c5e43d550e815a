"""ResNet of bottleneck blocks (He et al. 2016; torchvision's names) without its classifier: a picture to one vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from portrait_jax.nn.conv import conv3x3
from portrait_jax.nn.norms import BatchNorm
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

    @property
    def width(self) -> int:
        """Length of the result."""
        return EXPANSION * self.channels[-1]


class Bottleneck(nn.Module):
    """1×1, 3×3 (with the stride) and 1×1 convolution, each with norm, plus the input (through `downsample_0`, `_1`)."""

    channels: int
    stride: int
    shortcut: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Features) -> Features:
        def pointwise(channels: int, stride: int, name: str) -> nn.Conv:
            step = (stride, stride)
            return nn.Conv(channels, (1, 1), step, padding="VALID", use_bias=False, dtype=self.dtype, name=name)

        wide = EXPANSION * self.channels
        hidden = jax.nn.relu(BatchNorm(name="bn1")(pointwise(self.channels, 1, "conv1")(x)))
        hidden = conv3x3(self.channels, stride=self.stride, bias=False, dtype=self.dtype, name="conv2")(hidden)
        hidden = pointwise(wide, 1, "conv3")(jax.nn.relu(BatchNorm(name="bn2")(hidden)))
        if self.shortcut:
            x = BatchNorm(name="downsample_1")(pointwise(wide, self.stride, "downsample_0")(x))
        return jax.nn.relu(x + BatchNorm(name="bn3")(hidden))


class ResNet(nn.Module):
    """Pictures to vectors: the mean over space of the last stage.

    Norms use stored statistics (leaves `running_mean`, `running_var`, which no pattern of trainable leaves should
    match): a batch is small, and its pictures must not depend on each other.
    """

    config: ResNetConfig = ResNetConfig()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image_01: Float[Array, "b h w 3"]) -> Float[Array, "b d"]:
        """`image_01`: RGB in 0..1, sides of at least 32 pixels. The result is float32 of `config.width`."""
        config = self.config
        x = (image_01 - jnp.asarray(MEAN)) / jnp.asarray(STD)
        sides = ((3, 3), (3, 3))
        x = nn.Conv(config.channels[0], (7, 7), (2, 2), sides, use_bias=False, dtype=self.dtype, name="conv1")(x)
        x = jax.nn.relu(BatchNorm(name="bn1")(x))
        x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        for i, (channels, layers) in enumerate(zip(config.channels, config.layers), 1):
            for j in range(layers):
                stride = 2 if i > 1 and j == 0 else 1
                x = Bottleneck(channels, stride, j == 0, self.dtype, name=f"layer{i}_{j}")(x)
        return x.astype(jnp.float32).mean((1, 2))
