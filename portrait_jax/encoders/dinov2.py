"""DINOv2 with registers (arXiv 2304.07193, 2309.16588): pictures to tokens, with room for adapters inside its blocks.

Source: facebookresearch/dinov2 `DinoVisionTransformer`, transformers `Dinov2WithRegistersModel`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from portrait_jax.encoders.resize import plain_cubic_weights
from portrait_jax.encoders.resnet import MEAN, STD
from portrait_jax.errors import ConfigError, ShapeError
from portrait_jax.nn.encoder import SelfAttention, Tokens
from portrait_jax.nn.feedforward import MLP
from portrait_jax.nn.norms import LayerNorm
from portrait_jax.typing import Array, Float

EPS = 1e-6
"""Of every layer norm."""
SMALL = nn.initializers.truncated_normal(0.02)


@dataclass(frozen=True)
class DINOv2Config:
    """Sizes; the defaults are those of ViT-L/14 with four registers."""

    hidden: int = 1024
    layers: int = 24
    heads: int = 16
    mlp: int = 4096
    patch: int = 14
    registers: int = 4
    grid: int = 37
    """Patches per side that the stored position table covers."""
    plain_offset: float | None = None
    """How the table is brought to another grid. None: antialiased cubic interpolation. A number: PyTorch's plain bicubic one with
    coordinates scaled by (patches + number) / `grid`."""
    gradient_checkpointing: bool = False


@dataclass(frozen=True)
class BlockAdapter:
    """Modules beside the feed-forward layers of some blocks: ls2·(mlp(u) + gain·adapter(u, extra)).

    `make(dtype=…, name=…)` returns a module whose call takes tokens "b n d", extra tokens, and the grid (rows, columns) of
    the patches, which are the last tokens; it returns tokens of the same shape.
    """

    make: Callable[..., nn.Module]
    blocks: tuple[int, ...]
    gain: float = 1.0


def imagenet_pixels(image_pm1: Float[Array, "b h w 3"], size: int = 224) -> Float[Array, "b s s 3"]:
    """A whole picture in [−1, 1] at `size` pixels (bilinear, antialiased), with ImageNet's mean and std."""
    x = (jnp.clip(image_pm1.astype(jnp.float32), -1, 1) + 1) / 2
    x = jax.image.resize(x, (x.shape[0], size, size, 3), "linear", antialias=True)
    return (x - jnp.asarray(MEAN)) / jnp.asarray(STD)


def resized_positions(
    config: DINOv2Config, table: Float[Array, "1 n d"], height: int, width: int
) -> Float[Array, "1 k d"]:
    """The position table of the class token and grid² patches for a grid of (height, width) patches, float32."""
    if (height, width) == (config.grid, config.grid):
        return table
    first, stored = table[:, :1], table[0, 1:].reshape(config.grid, config.grid, -1)
    if config.plain_offset is None:
        patches = jax.image.resize(stored, (height, width, stored.shape[-1]), "cubic", antialias=True)
    else:
        rows, columns = (
            plain_cubic_weights(config.grid, new, (new + config.plain_offset) / config.grid) for new in (height, width)
        )
        patches = jnp.einsum("yh,xw,hwd->yxd", rows, columns, stored)
    return jnp.concatenate([first, patches.reshape(1, height * width, -1)], axis=1)


class PatchEmbed(nn.Module):
    """Patches through a convolution; name proj."""

    features: int
    patch: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, pixels: Float[Array, "b h w 3"]) -> Float[Array, "b _ _ d"]:
        step = (self.patch, self.patch)
        return nn.Conv(self.features, step, step, padding="VALID", dtype=self.dtype, name="proj")(pixels)


class LayerScale(nn.Module):
    """A learned factor per feature; name gamma."""

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        return x * self.param("gamma", nn.initializers.ones, (x.shape[-1],)).astype(x.dtype)


class Block(nn.Module):
    """x += ls1(attn(norm1 x)); x += ls2(mlp(norm2 x) and perhaps an adapter's part)."""

    config: DINOv2Config
    adapter: BlockAdapter | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Tokens, extra: Float[Array, "b k e"] | None, grid: tuple[int, int]) -> Tokens:
        config, dtype = self.config, self.dtype
        own = SelfAttention(config.heads, dtype, name="attn")(LayerNorm(EPS, name="norm1")(x))
        x = x + LayerScale(name="ls1")(own)
        hidden = LayerNorm(EPS, name="norm2")(x)
        out = MLP(config.mlp, "gelu", dtype, name="mlp")(hidden)
        if self.adapter is not None:
            out = out + self.adapter.gain * self.adapter.make(dtype=dtype, name="adapter")(hidden, extra, grid)
        return x + LayerScale(name="ls2")(out)


class DINOv2(nn.Module):
    """Pictures to the tokens of their patches, after a class token and the registers."""

    config: DINOv2Config = DINOv2Config()
    adapter: BlockAdapter | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, pixel_values: Float[Array, "b h w 3"], extra: Float[Array, "b k e"] | None = None) -> Tokens:
        """Tokens [class, registers, patches row by row] after the final norm.

        `pixel_values` come from `imagenet_pixels`, or are any with sides that are multiples of the patch (ShapeError
        otherwise). `extra` is what an adapter reads (ConfigError if it is given without an adapter, or lacks with one).
        """
        config = self.config
        batch, height, width, _ = pixel_values.shape
        if height % config.patch or width % config.patch:
            raise ShapeError(
                f"pictures of {(height, width)} pixels do not divide into patches of {config.patch}; resize them"
            )
        if (extra is None) != (self.adapter is None):
            raise ConfigError("extra tokens are read by an adapter and by nothing else: give both or neither")
        patches = PatchEmbed(config.hidden, config.patch, self.dtype, name="patch_embed")(pixel_values)
        grid = patches.shape[1], patches.shape[2]
        first = self.param("cls_token", SMALL, (1, 1, config.hidden))
        table = self.param("pos_embed", SMALL, (1, config.grid**2 + 1, config.hidden))
        registers = self.param("register_tokens", SMALL, (1, config.registers, config.hidden))

        def spread(tokens: Array) -> Array:
            return jnp.broadcast_to(tokens.astype(self.dtype), (batch, *tokens.shape[1:]))

        positions = resized_positions(config, table, *grid).astype(self.dtype)
        x = jnp.concatenate([spread(first), patches.reshape(batch, -1, config.hidden)], axis=1) + positions
        x = jnp.concatenate([x[:, :1], spread(registers), x[:, 1:]], axis=1)
        kind = nn.remat(Block, static_argnums=(3,)) if config.gradient_checkpointing else Block
        for i in range(config.layers):
            adapter = self.adapter if self.adapter is not None and i in self.adapter.blocks else None
            x = kind(config, adapter, self.dtype, name=f"blocks_{i}")(x, extra, grid)
        return LayerNorm(EPS, name="norm")(x)
