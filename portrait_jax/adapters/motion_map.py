"""Motion told as a picture: tokens of a frame to a feature map over the backbone's first convolution.

What X-NeMo (arXiv 2507.23143, table 2, "w/o cross-attention") compares its motion attention with: the same latent, but as a
spatial control. The decoder's sizes are ours; the paper names none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from portrait_jax.errors import ConfigError
from portrait_jax.nn.conv import conv3x3
from portrait_jax.nn.resnet import nearest
from portrait_jax.typing import Array, Float

BASE = 4
"""Side of the smallest feature map."""


@dataclass(frozen=True)
class MotionMapConfig:
    """Widths of the decoder."""

    size: int = 64
    """Side of the result: the latents'. A power of two from 4 on."""
    channels: int = 128
    """Width at every resolution."""
    out_channels: int = 320
    """First width of the backbone."""

    def __post_init__(self) -> None:
        if self.size < BASE or self.size & (self.size - 1):
            raise ConfigError(f"a motion map's size {self.size} must be a power of two from {BASE} on")


class MotionMap(nn.Module):
    """A linear layer to 4×4, then nearest upsampling and a 3×3 convolution with SiLU until `size`; conv_out starts at zero."""

    config: MotionMapConfig = MotionMapConfig()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: Float[Array, "b f k d"]) -> Float[Array, "b f size size c"]:
        """Each frame for itself."""
        config, (clips, frames) = self.config, tokens.shape[:2]
        flat = tokens.reshape(clips * frames, -1)
        x = nn.Dense(BASE * BASE * config.channels, dtype=self.dtype, name="to_grid")(flat)
        x = jax.nn.silu(x).reshape(-1, BASE, BASE, config.channels)
        for i in range((config.size // BASE).bit_length() - 1):
            x = nearest(nearest(x, 2 * x.shape[1], 1), 2 * x.shape[2], 2)
            x = jax.nn.silu(conv3x3(config.channels, dtype=self.dtype, name=f"conv_{i}")(x))
        x = conv3x3(config.out_channels, dtype=self.dtype, zero=True, name="conv_out")(x)
        return x.reshape(clips, frames, *x.shape[1:])
