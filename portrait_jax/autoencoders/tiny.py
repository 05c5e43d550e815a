"""A tiny distilled autoencoder for previews (TAESD, diffusers `AutoencoderTiny`): a hundredth of the full decoder's work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from portrait_jax.errors import ShapeError
from portrait_jax.nn.conv import conv3x3
from portrait_jax.nn.resnet import nearest
from portrait_jax.typing import Array, Float

Features = Float[Array, "_ _ _ _"]
Latent = Float[Array, "b lh lw z"]
REACH = 3.0
"""Latents are squashed into ±REACH before decoding."""


@dataclass(frozen=True)
class TinyConfig:
    """Sizes; the defaults are TAESD's for Stable Diffusion 1.5."""

    channels: int = 64
    encoder_blocks: tuple[int, ...] = (1, 3, 3, 3)
    """Residual blocks per level of the encoder, finest first."""
    decoder_blocks: tuple[int, ...] = (3, 3, 3, 1)
    """Residual blocks per level of the decoder, coarsest first."""
    latent_channels: int = 4

    @property
    def stride(self) -> int:
        """Pixels per latent pixel."""
        return 2 ** (len(self.encoder_blocks) - 1)


class TinyBlock(nn.Module):
    """Three convolutions with ReLU between them, plus the input, ReLU; names conv_0, conv_2, conv_4."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Features) -> Features:
        hidden = conv3x3(x.shape[-1], dtype=self.dtype, name="conv_0")(x)
        for name in ("conv_2", "conv_4"):
            hidden = conv3x3(x.shape[-1], dtype=self.dtype, name=name)(jax.nn.relu(hidden))
        return jax.nn.relu(x + hidden)


class TinyEncoder(nn.Module):
    """Convolution (halving but in the first level) and blocks per level, convolution; numbered as they run."""

    config: TinyConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Features) -> Features:
        config, number = self.config, 0
        for level, blocks in enumerate(config.encoder_blocks):
            first = level == 0
            name = f"layers_{number}"
            x = conv3x3(config.channels, stride=1 if first else 2, bias=first, dtype=self.dtype, name=name)(x)
            for i in range(1, blocks + 1):
                x = TinyBlock(self.dtype, name=f"layers_{number + i}")(x)
            number += blocks + 1
        return conv3x3(config.latent_channels, dtype=self.dtype, name=f"layers_{number}")(x)


class TinyDecoder(nn.Module):
    """Convolution, ReLU, then per level blocks, doubling but in the last, and a convolution; numbered as they run."""

    config: TinyConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Features) -> Features:
        config, number = self.config, 2
        x = jax.nn.relu(conv3x3(config.channels, dtype=self.dtype, name="layers_0")(x))
        for level, blocks in enumerate(config.decoder_blocks):
            last = level == len(config.decoder_blocks) - 1
            for i in range(blocks):
                x = TinyBlock(self.dtype, name=f"layers_{number + i}")(x)
            number += blocks
            if not last:
                x = nearest(nearest(x, 2 * x.shape[1], axis=1), 2 * x.shape[2], axis=2)
                number += 1
            width = 3 if last else config.channels
            x = conv3x3(width, bias=last, dtype=self.dtype, name=f"layers_{number}")(x)
            number += 1
        return x


class TinyAutoencoder(nn.Module):
    """Images to latents and back. Its latents are those that diffusion sees: already times the full autoencoder's scale."""

    config: TinyConfig = TinyConfig()
    dtype: Any = jnp.float32

    def setup(self) -> None:
        self.encoder = TinyEncoder(self.config, self.dtype)
        self.decoder = TinyDecoder(self.config, self.dtype)

    def encode(self, image_pm1: Float[Array, "b h w 3"]) -> Latent:
        """Scaled latents, float32; raises ShapeError if the size is no multiple of the stride."""
        stride = self.config.stride
        if image_pm1.shape[1] % stride or image_pm1.shape[2] % stride:
            raise ShapeError(f"an image of {image_pm1.shape[1:3]} pixels is no multiple of {stride}; resize or pad it")
        return self.encoder((image_pm1 + 1) / 2).astype(jnp.float32)

    def decode(self, latent: Latent) -> Float[Array, "b h w 3"]:
        """Image of scaled latents, about [−1, 1], not clamped, float32."""
        image_01 = self.decoder(jnp.tanh(latent.astype(jnp.float32) / REACH) * REACH)
        return image_01.astype(jnp.float32) * 2 - 1

    def __call__(self, image_pm1: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        """Reconstruction; also the method to initialise with, since it visits every parameter."""
        return self.decode(self.encode(image_pm1))
