"""The generator that redraws a face from two vectors, and the network that tells its pictures from real ones.

StyleGAN2's skip generator and residual discriminator (Karras et al. 2020, arXiv 1912.04958, figure 7), without noise inputs:
what is drawn is known, so that nothing is left to chance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from portrait_jax.adversarial.layers import EqualConv, EqualDense, ModulatedConv, leaky, upsample
from portrait_jax.errors import ShapeError
from portrait_jax.typing import Array, Float

BASE = 4
"""Side of the smallest feature map, pixels."""


@dataclass(frozen=True)
class PictureConfig:
    """Widths of both networks; the defaults draw 256 pixels."""

    channels: tuple[int, ...] = (512, 512, 512, 512, 512, 256, 128)
    """Channels at 4 pixels, 8, 16 …; the last level has the picture's size."""
    style: int = 512
    """Width of the style that modulates the generator."""
    mapping_layers: int = 2
    group: int = 4
    """Pictures whose spread the discriminator sees beside each of them."""

    @property
    def size(self) -> int:
        """Side of the pictures, pixels."""
        return BASE * 2 ** (len(self.channels) - 1)


class Generator(nn.Module):
    """Appearance and motion to a picture."""

    config: PictureConfig = PictureConfig()
    appearance: int = 512
    """Width that the appearance is projected to beside the motion."""
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, appearance: Float[Array, "b d"], motion: Float[Array, "b e"]) -> Float[Array, "b size size 3"]:
        """Vectors of any width each; the picture is float32, about −1..1, not clipped."""
        style = jnp.concatenate([EqualDense(self.appearance, name="projection")(appearance), motion], axis=-1)
        for i in range(self.config.mapping_layers):
            style = leaky(EqualDense(self.config.style, name=f"mapping_{i}")(style))
        first = self.config.channels[0]
        constant = self.param("constant", nn.initializers.normal(1.0), (BASE, BASE, first)).astype(self.dtype)
        x = jnp.broadcast_to(constant, (len(style), BASE, BASE, first))
        picture = jnp.zeros((len(style), BASE // 2, BASE // 2, 3))
        for i, channels in enumerate(self.config.channels):
            if i:
                x = leaky(ModulatedConv(channels, resize="up", dtype=self.dtype, name=f"up_{i}")(x, style))
            x = leaky(ModulatedConv(channels, dtype=self.dtype, name=f"conv_{i}")(x, style))
            seen = ModulatedConv(3, 1, demodulate=False, dtype=self.dtype, name=f"to_rgb_{i}")(x, style)
            picture = upsample(picture) + seen.astype(jnp.float32)
        return picture


class Discriminator(nn.Module):
    """Pictures to a score each (high: real), and the output of every residual block."""

    config: PictureConfig = PictureConfig()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, image_pm1: Float[Array, "b h w 3"]
    ) -> tuple[Float[Array, " b"], tuple[Float[Array, "b _ _ _"], ...]]:
        """`image_pm1` has `config.size`; raises ShapeError for another one."""
        size, channels = self.config.size, self.config.channels[::-1]
        if image_pm1.shape[1:3] != (size, size):
            raise ShapeError(f"the discriminator takes {size}×{size} pixels, not {image_pm1.shape[1:3]}; resize them")

        def conv(features: int, size: int, name: str, **options: Any) -> EqualConv:
            return EqualConv(features, size, dtype=self.dtype, name=name, **options)

        x = leaky(conv(channels[0], 1, "from_rgb")(image_pm1))
        blocks = []
        for i, (width, out) in enumerate(zip(channels, channels[1:])):
            hidden = leaky(conv(width, 3, f"conv_{i}_0")(x))
            hidden = leaky(conv(out, 3, f"conv_{i}_1", resize="down")(hidden))
            skip = conv(out, 1, f"skip_{i}", resize="down", use_bias=False)(x)
            x = (hidden + skip) * 2**-0.5
            blocks.append(x)
        x = jnp.concatenate([x, spread(x, self.config.group)], axis=-1)
        x = leaky(conv(channels[-1], 3, "conv_last")(x)).reshape(len(x), -1)
        x = leaky(EqualDense(channels[-1], dtype=self.dtype, name="dense")(x))
        return EqualDense(1, dtype=self.dtype, name="score")(x)[:, 0].astype(jnp.float32), tuple(blocks)


def spread(x: Float[Array, "b h w c"], group: int) -> Float[Array, "b h w 1"]:
    """Mean standard deviation within groups of neighbouring pictures, as one more channel (Karras et al. 2018, section 3).

    Neighbours, not every n-th picture: so a group lies on one device. Groups shrink to what divides the batch.
    """
    items, group = len(x), math.gcd(group, len(x))
    grouped = x.astype(jnp.float32).reshape(items // group, group, *x.shape[1:])
    deviation = jnp.sqrt(grouped.var(axis=1) + 1e-8).mean((1, 2, 3))
    each = jnp.repeat(deviation, group)[:, None, None, None]
    return jnp.broadcast_to(each, (*x.shape[:3], 1)).astype(x.dtype)
