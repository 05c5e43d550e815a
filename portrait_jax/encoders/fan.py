"""Motion encoder on a face-alignment network (FAN, arXiv 1703.07332): a face to what it does, as tokens.

One hourglass of FAN with three attention blocks over patches reads a low-dimensional motion from a face crop; where the face
is and how large (its box relative to the reference's) joins it, and both become tokens for cross-attention.
Source: X-NeMo (arXiv 2507.23143, section 3.2; bytedance/x-nemo-inference, src/models/motion_encoder).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from portrait_jax.encoders.resnet import make_norm
from portrait_jax.errors import ConfigError, ShapeError
from portrait_jax.nn.attention import Attention
from portrait_jax.nn.conv import PointwiseConv, conv3x3, unfold
from portrait_jax.nn.embeddings import halves_table, patch_table
from portrait_jax.nn.feedforward import FeedForward
from portrait_jax.nn.norms import GroupNorm, LayerNorm
from portrait_jax.typing import Array, Float

Features = Float[Array, "_ _ _ _"]
PATCHES = (4, 2, 2)
"""Pixels per side of the patches of the three attention blocks; all come to one eighth of the image."""
IN_PLACE = (0.0, 0.0, 1.0)
"""The box triplet of a face that is where the reference's is, and as large."""


@dataclass(frozen=True)
class FANConfig:
    """Sizes of the motion encoder; the defaults are X-NeMo's."""

    image_size: int = 224
    channels: tuple[int, int, int] = (64, 128, 256)
    """Widths at one half, one half after the first block, and one quarter of the image's size."""
    depth: int = 4
    """Times that the hourglass halves."""
    attention_dim: int = 1024
    """Width of a patch in attention; a multiple of 16."""
    attention_heads: int = 8
    heatmaps: int = 68
    """Channels before the last convolution: in FAN one per landmark."""
    latent_dim: int = 512
    tokens: int = 32
    """Tokens that the fused latent is cut into."""
    box_dim: int = 64
    norm_groups: int = 32
    batch_norms: bool = True
    """Convolutions are normalised with stored statistics, which published weights bring; False: with group norms, for an encoder
    that is trained from nothing and whose statistics nobody has measured."""
    leak: float = 0.0
    """Slope below zero of the last ReLU, through whose one channel all goes: trained from nothing it is soon dead without."""

    latent_gain: float = 1.0
    """What latents are multiplied by where they are fused: small ones are lost in tokens whose positions have unit size."""
    box_gain: float = 1.0
    """The same of how far boxes are from `IN_PLACE`, a tenth or so."""

    def __post_init__(self) -> None:
        if self.image_size % 8:
            raise ConfigError(f"the motion encoder's image_size {self.image_size} must be a multiple of 8")
        if self.latent_dim % self.tokens:
            raise ConfigError(f"{self.tokens} tokens do not divide latent_dim {self.latent_dim}")

    @property
    def token_dim(self) -> int:
        """Width of one token."""
        return self.latent_dim // self.tokens


class ConvBlock(nn.Module):
    """Three 3×3 convolutions after norm and ReLU, their outputs joined (half, quarter, quarter), plus the input."""

    channels: int
    norm_groups: int | None = None
    """As in `make_norm`."""
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Features) -> Features:
        outputs, hidden = [], x
        for i, share in enumerate((2, 4, 4), 1):
            hidden = jax.nn.relu(make_norm(self.norm_groups, f"bn{i}")(hidden))
            width = self.channels // share
            hidden = conv3x3(width, bias=False, dtype=self.dtype, name=f"conv{i}")(hidden)
            outputs.append(hidden)
        if x.shape[-1] != self.channels:
            x = jax.nn.relu(make_norm(self.norm_groups, "downsample_0")(x))
            x = nn.Conv(self.channels, (1, 1), use_bias=False, dtype=self.dtype, name="downsample_2")(x)
        return jnp.concatenate(outputs, axis=-1) + x


class Hourglass(nn.Module):
    """Halves `depth` times and comes back, with a branch at every resolution."""

    depth: int
    norm_groups: int | None = None
    """As in `make_norm`."""
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Features) -> Features:
        return self._level(self.depth, x)

    def _level(self, level: int, x: Features) -> Features:
        def block(name: str, x: Features) -> Features:
            return ConvBlock(x.shape[-1], self.norm_groups, self.dtype, name=name)(x)

        branch = block(f"b1_{level}", x)
        low = block(f"b2_{level}", nn.max_pool(x, (2, 2), (2, 2)))
        low = self._level(level - 1, low) if level > 1 else block("b2_plus_1", low)
        low = block(f"b3_{level}", low)
        return branch + jax.image.resize(low, branch.shape, "bilinear")


class PatchEmbed(nn.Module):
    """Patches through a convolution."""

    features: int
    patch: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Features) -> Features:
        step = (self.patch, self.patch)
        return nn.Conv(self.features, step, step, padding="VALID", dtype=self.dtype, name="proj")(x)


class PatchBlock(nn.Module):
    """Self-attention and feed-forward over patches, each on a normalised input with a residual."""

    heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        x = x + Attention(self.heads, dtype=self.dtype, name="attention_blocks_0")(LayerNorm(name="norms_0")(x))
        return x + FeedForward(dtype=self.dtype, name="ff")(LayerNorm(name="ff_norm")(x))


class PatchAttention(nn.Module):
    """Group norm, patches with fixed places, one `PatchBlock`, back to pixels, linear (zero at the start), plus the input."""

    config: FANConfig
    patch: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Features) -> Features:
        config, channels = self.config, x.shape[-1]
        hidden = GroupNorm(config.norm_groups, 1e-6, name="norm")(x)
        grid = PatchEmbed(config.attention_dim, self.patch, self.dtype, name="pos_embed")(hidden)
        grid = grid + patch_table(*grid.shape[1:]).astype(grid.dtype)
        tokens = grid.reshape(grid.shape[0], -1, grid.shape[-1])
        tokens = PatchBlock(config.attention_heads, self.dtype, name="transformer_blocks_0")(tokens)
        pixels = unfold(tokens.reshape(grid.shape), self.patch)
        zero = nn.initializers.zeros
        return x + nn.Dense(channels, dtype=self.dtype, kernel_init=zero, name="proj_out")(pixels)


class FAN(nn.Module):
    """Face crops to the motion latent."""

    config: FANConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, face_pm1: Float[Array, "b h w 3"]) -> Float[Array, "b e"]:
        config = self.config
        groups = None if config.batch_norms else config.norm_groups

        def attend(number: int, x: Features) -> Features:
            return PatchAttention(config, PATCHES[number - 1], self.dtype, name=f"att_{number}")(x)

        def block(name: str, width: int, x: Features) -> Features:
            return ConvBlock(width, groups, self.dtype, name=name)(x)

        first, second, third = config.channels
        x = nn.Conv(first, (7, 7), (2, 2), padding=((3, 3), (3, 3)), dtype=self.dtype, name="conv1")(face_pm1)
        x = jax.nn.relu(make_norm(groups, "bn1")(x))
        x = attend(1, block("conv2", second, x))
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = attend(2, block("conv4", third, block("conv3", second, x)))
        x = block("top_m_0", third, Hourglass(config.depth, groups, self.dtype, name="m0")(x))
        x = make_norm(groups, "bn_end0")(PointwiseConv(third, self.dtype, name="conv_last0")(x))
        x = PointwiseConv(config.heatmaps, self.dtype, name="l0")(jax.nn.relu(attend(3, x)))
        x = jax.nn.relu(make_norm(groups, "bn5")(x))
        x = conv3x3(1, stride=2, dtype=self.dtype, name="conv6")(x)
        x = jax.nn.leaky_relu(x.reshape(x.shape[0], -1), config.leak)
        return nn.Dense(config.latent_dim, dtype=self.dtype, name="fc")(x)


class FANMotionEncoder(nn.Module):
    """Face crops and face boxes to motion tokens, through a latent that knows nothing of the box.

    `encode` gives the latent, `fuse` the tokens; what interpolates or generates motion works on the latent.
    Norms of convolutions use their stored statistics, or groups (`FANConfig.batch_norms`).
    """

    config: FANConfig = FANConfig()
    dtype: Any = jnp.float32

    def setup(self) -> None:
        config = self.config
        self.model = FAN(config, self.dtype)
        self.bbox_proj_0 = nn.Dense(config.box_dim, dtype=self.dtype)
        self.bbox_proj_3 = nn.Dense(config.box_dim, dtype=self.dtype)
        self.final_proj = nn.Dense(config.latent_dim, dtype=self.dtype)

    def encode(self, face_pm1: Float[Array, "*batch h w 3"]) -> Float[Array, "*batch e"]:
        """Motion latents of face crops in [−1, 1], image_size pixels square; raises ShapeError for another size."""
        *batch, height, width, _ = face_pm1.shape
        size = self.config.image_size
        if (height, width) != (size, size):
            raise ShapeError(f"the motion encoder takes {size}×{size} pixels, not {(height, width)}; resize the faces")
        latent = self.model(face_pm1.reshape(-1, size, size, 3))
        return latent.reshape(*batch, -1).astype(jnp.float32)

    def fuse(self, latent: Float[Array, "*batch e"], box: Float[Array, "*batch 3"]) -> Float[Array, "*batch k d"]:
        """Motion tokens, float32. `box` is `face.boxes.box_triplet`, or `IN_PLACE`."""
        config, place = self.config, jnp.asarray(IN_PLACE, box.dtype)
        # A gain of 1 leaves what published weights read as it is, to the bit.
        box = box if config.box_gain == 1 else place + config.box_gain * (box - place)
        features = self.bbox_proj_3(jax.nn.relu(self.bbox_proj_0(box)))
        told = config.latent_gain * latent.astype(features.dtype)
        fused = self.final_proj(jnp.concatenate([told, features], axis=-1))
        tokens = fused.reshape(*fused.shape[:-1], self.config.tokens, self.config.token_dim)
        return tokens.astype(jnp.float32) + halves_table(self.config.tokens, self.config.token_dim)

    def __call__(
        self, face_pm1: Float[Array, "*batch h w 3"], box: Float[Array, "*batch 3"]
    ) -> Float[Array, "*batch k d"]:
        """Tokens of faces; also the method to initialise with."""
        return self.fuse(self.encode(face_pm1), box)
