"""T2I-Adapter (arXiv 2302.08453): a control picture to one feature map per level of the backbone's encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from portrait_jax.errors import ShapeError
from portrait_jax.nn.conv import PointwiseConv, conv3x3, unshuffle
from portrait_jax.typing import Array, Float

Features = Float[Array, "_ _ _ _"]


@dataclass(frozen=True)
class T2IAdapterConfig:
    """Sizes of an adapter; the defaults are those for Stable Diffusion 1.5."""

    channels: tuple[int, ...] = (320, 640, 1280, 1280)
    """Width of each level, finest first: the backbone's."""
    layers_per_block: int = 2
    downscale: int = 8
    """Control pixels per latent pixel."""


class ControlBlock(nn.Module):
    """Convolution, ReLU, 1×1 convolution, plus the input; names block1 and block2."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Features) -> Features:
        hidden = jax.nn.relu(conv3x3(x.shape[-1], dtype=self.dtype, name="block1")(x))
        return x + PointwiseConv(x.shape[-1], self.dtype, name="block2")(hidden)


class ControlLevel(nn.Module):
    """Halves space by averaging unless it is the finest level, changes the width by `in_conv` if it must, then blocks."""

    channels: int
    layers: int
    down: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Features) -> Features:
        if self.down:
            odd = tuple((0, size % 2) for size in x.shape[1:3])
            x = nn.avg_pool(x, (2, 2), (2, 2), odd, count_include_pad=False)
        if x.shape[-1] != self.channels:
            x = PointwiseConv(self.channels, self.dtype, name="in_conv")(x)
        for i in range(self.layers):
            x = ControlBlock(self.dtype, name=f"resnets_{i}")(x)
        return x


class FullAdapter(nn.Module):
    """Pixels folded into channels, a convolution, then the levels `body_i`."""

    config: T2IAdapterConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image_01: Features) -> tuple[Features, ...]:
        config, features = self.config, []
        x = unshuffle(image_01, config.downscale)
        x = conv3x3(config.channels[0], dtype=self.dtype, name="conv_in")(x)
        for i, width in enumerate(config.channels):
            x = ControlLevel(width, config.layers_per_block, i > 0, self.dtype, name=f"body_{i}")(x)
            features.append(x)
        return tuple(features)


class T2IAdapter(nn.Module):
    """Needs neither noise nor text: computed once per clip, frame by frame. Source: diffusers `T2IAdapter`, full adapter.

    Multiply the result by the strength of the control and give it to a backbone with `level_residual_slot()` as
    `Conditioning.level_residuals`.
    """

    config: T2IAdapterConfig = T2IAdapterConfig()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image_01: Float[Array, "b f H W c"]) -> tuple[Float[Array, "b f _ _ _"], ...]:
        """Control pictures in [0, 1], (H, W) pixels, to features at (H, W) / downscale and halves of it, finest first.

        Raises ShapeError if the downscale does not divide the size.
        """
        batch, frames, height, width, _ = image_01.shape
        if height % self.config.downscale or width % self.config.downscale:
            raise ShapeError(f"a control picture of {height}×{width} pixels is no multiple of {self.config.downscale}")
        adapter = FullAdapter(self.config, self.dtype, name="adapter")
        features = adapter(image_01.reshape(batch * frames, *image_01.shape[2:]))
        return tuple(x.reshape(batch, frames, *x.shape[1:]) for x in features)
