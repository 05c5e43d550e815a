"""Landmark guider: drawings of landmarks to features of the backbone's first width (Follow-Your-Emoji, models/guider.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from portrait_jax.nn.conv import conv3x3, fold
from portrait_jax.typing import Array, Float


@dataclass(frozen=True)
class LandmarkGuiderConfig:
    """Widths of the convolutions; each step from one width to the next halves space."""

    channels: tuple[int, ...] = (16, 32, 96, 256)
    out_channels: int = 320
    """First width of the backbone."""
    patch_size: int = 1
    """Pixels per side that are folded into channels before the first convolution, as in `KLConfig`."""

    @property
    def stride(self) -> int:
        """Pixels of the drawing per feature."""
        return self.patch_size * 2 ** (len(self.channels) - 1)


class LandmarkGuider(nn.Module):
    """3×3 convolutions per frame with SiLU between them; conv_out starts at zero, so training begins without landmarks."""

    config: LandmarkGuiderConfig = LandmarkGuiderConfig()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image_01: Float[Array, "b f H W 3"]) -> Float[Array, "b f h w c"]:
        """Drawings in [0, 1], (H, W) pixels, to features at (H, W) / stride."""
        widths = self.config.channels
        x = fold(image_01.reshape(-1, *image_01.shape[2:]), self.config.patch_size)
        x = jax.nn.silu(conv3x3(widths[0], dtype=self.dtype, name="conv_in")(x))
        plan = [step for old, new in zip(widths, widths[1:]) for step in ((old, 1), (new, 2))]
        for i, (width, stride) in enumerate(plan):
            x = jax.nn.silu(conv3x3(width, stride=stride, dtype=self.dtype, name=f"blocks_{i}")(x))
        x = conv3x3(self.config.out_channels, dtype=self.dtype, zero=True, name="conv_out")(x)
        return x.reshape(*image_01.shape[:2], *x.shape[1:])
