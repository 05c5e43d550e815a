"""VGG's convolutions (Simonyan and Zisserman 2015) as a measure of likeness: what each block's first layer sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from portrait_jax.nn.conv import conv3x3
from portrait_jax.typing import Array, Float


@dataclass(frozen=True)
class VGGConfig:
    """Sizes, and how pictures come in; the defaults are VGG-19's with the weights of its authors."""

    layers: tuple[int, ...] = (2, 2, 4, 4, 4)
    """Convolutions per block; of the last block only the first is computed."""
    channels: tuple[int, ...] = (64, 128, 256, 512, 512)
    mean: tuple[float, ...] = (123.68, 116.779, 103.939)
    """Of the training pictures in 0..255, red first."""
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    """What values in 0..255 are divided by; the authors divided by nothing."""
    blue_first: bool = True
    """Order of the channels: the authors' Caffe reads blue, green, red."""


VGG19 = VGGConfig()
VGG19_TORCHVISION = VGGConfig(
    mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375), blue_first=False
)  # the same network, trained anew on pictures of unit deviation
VGG_FACE = VGGConfig(layers=(2, 2, 3, 3, 3), mean=(129.1863, 104.7624, 93.5940))
"""VGG-16 as a face recogniser (Parkhi et al. 2015)."""


class VGG(nn.Module):
    """Pictures to feature maps: relu1_1, relu2_1, … one per block, each at half the resolution of the one before."""

    config: VGGConfig = VGG19
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image_01: Float[Array, "b h w 3"]) -> tuple[Float[Array, "b _ _ _"], ...]:
        """`image_01`: RGB in 0..1, sides of at least 16 pixels."""
        config = self.config
        x = (255 * image_01 - jnp.asarray(config.mean)) / jnp.asarray(config.std)
        x = x[..., ::-1] if config.blue_first else x
        seen: list[Array] = []
        last = len(config.layers)
        for block, (layers, channels) in enumerate(zip(config.layers, config.channels), 1):
            for layer in range(1, 2 if block == last else layers + 1):
                x = jax.nn.relu(conv3x3(channels, dtype=self.dtype, name=f"conv{block}_{layer}")(x))
                if layer == 1:
                    seen.append(x)
            if block < last:
                x = nn.max_pool(x, (2, 2), (2, 2))
        return tuple(seen)
