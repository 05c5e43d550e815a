"""Image encoder with a decoder that sees neighbouring frames (Stable Video Diffusion's autoencoder).

Source: diffusers `AutoencoderKLTemporalDecoder`. The encoder is that of `autoencoders.kl`; the decoder's residual blocks
have a second half along time, and a convolution over three frames comes last.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn

from portrait_jax.autoencoders.kl import EPS, Encoder, Features, KLConfig, Latent, MidAttention, moments
from portrait_jax.errors import ConfigError
from portrait_jax.nn.conv import PointwiseConv, TemporalConv, conv3x3
from portrait_jax.nn.norms import GroupNorm
from portrait_jax.nn.resnet import SpatioTemporalResnetBlock, Upsample
from portrait_jax.typing import Array, Float

CHUNK = 25
"""Frames that the published model decodes together."""


class TemporalMid(nn.Module):
    """Residual block, then attention per frame and another residual block; the original leaves both out with one layer."""

    config: KLConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Features, frames: int) -> Features:
        groups, width = self.config.norm_groups, x.shape[-1]
        x = SpatioTemporalResnetBlock(width, groups, EPS, dtype=self.dtype, name="resnets_0")(x, frames)
        if self.config.layers_per_block == 1:
            return x
        if self.config.mid_attention:
            x = MidAttention(groups, self.dtype, name="attentions_0")(x)
        return SpatioTemporalResnetBlock(width, groups, EPS, dtype=self.dtype, name="resnets_1")(x, frames)


class TemporalLevel(nn.Module):
    """Residual blocks of one level, then `upsamplers_0` unless it is the finest."""

    config: KLConfig
    channels: int
    upsample: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Features, frames: int) -> Features:
        for i in range(self.config.layers_per_block + 1):
            block = SpatioTemporalResnetBlock(
                self.channels, self.config.norm_groups, EPS, dtype=self.dtype, name=f"resnets_{i}"
            )
            x = block(x, frames)
        return Upsample(self.channels, self.dtype, name="upsamplers_0")(x) if self.upsample else x


class TemporalDecoder(nn.Module):
    """Latents of clips to images."""

    config: KLConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, latent: Float[Array, "b f lh lw z"]) -> Float[Array, "b f h w 3"]:
        config, (clips, frames) = self.config, latent.shape[:2]
        last = len(config.block_out_channels) - 1
        x = rearrange(latent, "b f h w z -> (b f) h w z")
        x = conv3x3(config.block_out_channels[-1], dtype=self.dtype, name="conv_in")(x)
        x = TemporalMid(config, self.dtype, name="mid_block")(x, frames)
        for i, width in enumerate(reversed(config.block_out_channels)):
            x = TemporalLevel(config, width, i < last, self.dtype, name=f"up_blocks_{i}")(x, frames)
        x = jax.nn.silu(GroupNorm(config.norm_groups, EPS, name="conv_norm_out")(x))
        x = conv3x3(3, dtype=self.dtype, name="conv_out")(x)
        return TemporalConv(3, self.dtype, name="time_conv_out")(rearrange(x, "(b f) h w c -> b f h w c", b=clips))


class AutoencoderKLTemporalDecoder(nn.Module):
    """Encodes images to a Gaussian over latents one by one, and decodes latents to images clip by clip.

    `config.patch_size` and `config.shortcuts` must be off: the published decoder has neither.
    """

    config: KLConfig = KLConfig()
    dtype: Any = jnp.float32

    def setup(self) -> None:
        if self.config.patch_size != 1 or self.config.shortcuts:
            raise ConfigError("the temporal decoder has no patch_size and no shortcuts; leave both at their defaults")
        self.encoder = Encoder(self.config, self.dtype)
        self.decoder = TemporalDecoder(self.config, self.dtype)
        self.quant_conv = PointwiseConv(2 * self.config.latent_channels, self.dtype)

    def encode(self, image_pm1: Float[Array, "b h w 3"]) -> tuple[Latent, Latent]:
        """As `AutoencoderKL.encode`."""
        return moments(self.config, self.encoder, self.quant_conv, image_pm1)

    def decode(self, latent: Float[Array, "b f lh lw z"]) -> Float[Array, "b f h w 3"]:
        """Images of the unscaled latents of clips, about [−1, 1], not clamped, float32. All frames of a clip see each other
        through norms: decode as many at a time as the model was made for (`CHUNK`)."""
        return self.decoder(latent).astype(jnp.float32)

    def __call__(self, image_pm1: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        """Reconstruction of one clip of `b` frames through the mean; also the method to initialise with."""
        return self.decode(self.encode(image_pm1)[0][None])[0]
