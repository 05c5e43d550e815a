"""Image autoencoder with a Gaussian latent (the KL autoencoder of Stable Diffusion, diffusers `AutoencoderKL`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from portrait_jax.errors import ShapeError
from portrait_jax.nn.attention import attention
from portrait_jax.nn.conv import RIGHT_BOTTOM, PointwiseConv, conv3x3, fold, unfold
from portrait_jax.nn.norms import GroupNorm
from portrait_jax.nn.resnet import Downsample, ResnetBlock, Upsample
from portrait_jax.typing import Array, Float, PRNGKeyArray

EPS = 1e-6
"""Of every group norm in the autoencoder."""
LOGVAR_RANGE = (-30.0, 20.0)

Features = Float[Array, "_ _ _ _"]
Latent = Float[Array, "b lh lw z"]


@dataclass(frozen=True)
class KLConfig:
    """Sizes of an autoencoder; the defaults are Stable Diffusion 1.5's."""

    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    """Width of each level, finest first; each level but the last halves space."""
    layers_per_block: int = 2
    """Residual blocks per level of the encoder; the decoder has one more."""
    latent_channels: int = 4
    norm_groups: int = 32
    scaling_factor: float = 0.18215
    """Diffusion sees latent · scaling_factor; `encode` and `decode` do not apply it."""
    mid_attention: bool = True
    patch_size: int = 1
    """Pixels per side that are folded into channels before the first convolution and unfolded after the last.

    A small autoencoder spends most of its time at full resolution; 2 takes a quarter of it.
    """
    shortcuts: bool = False
    """Linear paths around every change of resolution and around both heads (after DC-AE, arXiv 2410.10733, section 3.2).

    The group norms of the heads hide colours and brightness from a small network; with a linear path from pixels to
    latents and back it learns them at once.
    """

    @property
    def stride(self) -> int:
        """Pixels per latent pixel."""
        return self.patch_size * 2 ** (len(self.block_out_channels) - 1)


class MidAttention(nn.Module):
    """Self-attention of one head over all positions, with its own group norm and a residual."""

    groups: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Features) -> Features:
        tokens = GroupNorm(self.groups, EPS, name="group_norm")(x).reshape(x.shape[0], -1, x.shape[-1])

        def project(name: str, tokens: Array) -> Array:
            return nn.Dense(x.shape[-1], dtype=self.dtype, name=name)(tokens)

        q, k, v = (project(name, tokens)[:, :, None] for name in ("to_q", "to_k", "to_v"))
        return x + project("to_out_0", attention(q, k, v)[:, :, 0]).reshape(x.shape)


class Level(nn.Module):
    """Residual blocks of one level, then `downsamplers_0` or `upsamplers_0` if `resize` names one."""

    config: KLConfig
    channels: int
    layers: int
    resize: str | None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Features) -> Features:
        for i in range(self.layers):
            x = ResnetBlock(self.channels, self.config.norm_groups, EPS, self.dtype, name=f"resnets_{i}")(x)
        if self.resize == "downsamplers_0":
            out = Downsample(self.channels, RIGHT_BOTTOM, self.dtype, name=self.resize)(x)
            return out + self._shortcut(self.channels, fold(x, 2)) if self.config.shortcuts else out
        if self.resize == "upsamplers_0":
            out = Upsample(self.channels, self.dtype, name=self.resize)(x)
            return out + unfold(self._shortcut(4 * self.channels, x), 2) if self.config.shortcuts else out
        return x

    def _shortcut(self, channels: int, x: Features) -> Float[Array, "b h w _"]:
        return PointwiseConv(channels, self.dtype, name="shortcut")(x)


class Mid(nn.Module):
    """Residual block, attention if the config has it, residual block."""

    config: KLConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Features) -> Features:
        config, channels = self.config, x.shape[-1]
        x = ResnetBlock(channels, config.norm_groups, EPS, self.dtype, name="resnets_0")(x)
        if config.mid_attention:
            x = MidAttention(config.norm_groups, self.dtype, name="attentions_0")(x)
        return ResnetBlock(channels, config.norm_groups, EPS, self.dtype, name="resnets_1")(x)


def head(config: KLConfig, channels: int, dtype: Any, x: Features) -> Features:
    """Group norm, SiLU, convolution: the end of encoder and decoder. Called inside a compact method."""
    hidden = jax.nn.silu(GroupNorm(config.norm_groups, EPS, name="conv_norm_out")(x))
    out = conv3x3(channels, dtype=dtype, name="conv_out")(hidden)
    return out + PointwiseConv(channels, dtype, name="shortcut")(x) if config.shortcuts else out


class Encoder(nn.Module):
    """Images to the moments of the latent, before `quant_conv`."""

    config: KLConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Features) -> Latent:
        config, last = self.config, len(self.config.block_out_channels) - 1
        x = conv3x3(config.block_out_channels[0], dtype=self.dtype, name="conv_in")(x)
        for i, width in enumerate(config.block_out_channels):
            resize = "downsamplers_0" if i < last else None
            x = Level(config, width, config.layers_per_block, resize, self.dtype, name=f"down_blocks_{i}")(x)
        x = Mid(config, self.dtype, name="mid_block")(x)
        return head(config, 2 * config.latent_channels, self.dtype, x)


class Decoder(nn.Module):
    """Latents after `post_quant_conv` to images."""

    config: KLConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, latent: Latent) -> Features:
        config, last = self.config, len(self.config.block_out_channels) - 1
        x = conv3x3(config.block_out_channels[-1], dtype=self.dtype, name="conv_in")(latent)
        x = Mid(config, self.dtype, name="mid_block")(x)
        for i, width in enumerate(reversed(config.block_out_channels)):
            resize = "upsamplers_0" if i < last else None
            x = Level(config, width, config.layers_per_block + 1, resize, self.dtype, name=f"up_blocks_{i}")(x)
        return head(config, 3 * config.patch_size**2, self.dtype, x)


def moments(
    config: KLConfig, encoder: Callable, quant_conv: Callable, image_pm1: Float[Array, "b h w 3"]
) -> tuple[Latent, Latent]:
    """What `encode` of an autoencoder returns, from its two layers."""
    stride = config.stride
    if image_pm1.shape[1] % stride or image_pm1.shape[2] % stride:
        raise ShapeError(f"an image of {image_pm1.shape[1:3]} pixels is no multiple of {stride}; resize or pad it")
    both = quant_conv(encoder(fold(image_pm1, config.patch_size))).astype(jnp.float32)
    mean, logvar = jnp.split(both, 2, axis=-1)
    return mean, jnp.clip(logvar, *LOGVAR_RANGE)


class AutoencoderKL(nn.Module):
    """Encodes images to a Gaussian over latents and decodes latents to images; frames count as images."""

    config: KLConfig = KLConfig()
    dtype: Any = jnp.float32

    def setup(self) -> None:
        self.encoder = Encoder(self.config, self.dtype)
        self.decoder = Decoder(self.config, self.dtype)
        self.quant_conv = PointwiseConv(2 * self.config.latent_channels, self.dtype)
        self.post_quant_conv = PointwiseConv(self.config.latent_channels, self.dtype)

    def encode(self, image_pm1: Float[Array, "b h w 3"]) -> tuple[Latent, Latent]:
        """Mean and log-variance (clamped to [−30, 20]) of the unscaled latent, float32, at (h, w) / stride pixels.

        Raises ShapeError if the size is no multiple of the stride.
        """
        return moments(self.config, self.encoder, self.quant_conv, image_pm1)

    def decode(self, latent: Latent) -> Float[Array, "b h w 3"]:
        """Image of an unscaled latent (divide by `scaling_factor` first), about [−1, 1], not clamped."""
        return unfold(self.decoder(self.post_quant_conv(latent)), self.config.patch_size).astype(jnp.float32)

    def __call__(self, image_pm1: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        """Reconstruction through the mean; also the method to initialise with, since it visits every parameter."""
        return self.decode(self.encode(image_pm1)[0])


def sample_latent(
    rng: PRNGKeyArray, mean: Float[Array, "*shape"], logvar: Float[Array, "*shape"], alike: bool = False
) -> Float[Array, "*shape"]:
    """Draws from the encoder's Gaussian: mean + exp(logvar / 2) · noise; where items are `alike`, of the same noise, as alone."""
    shape = (1, *mean.shape[1:]) if alike else mean.shape
    return mean + jnp.exp(0.5 * logvar) * jax.random.normal(rng, shape, mean.dtype)
