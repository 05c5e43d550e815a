"""ID-aware multi-scale adapter: an identity vector speaks beside the feed-forward layers of a frozen image encoder.

Source: HunyuanPortrait (arXiv 2503.18860, section 3.4 and equation 5; Tencent-Hunyuan/HunyuanPortrait,
src/models/dinov2/layers/block.py). Paper and release differ, see `IdentityAdapterConfig.query`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from portrait_jax.encoders.dinov2 import BlockAdapter
from portrait_jax.errors import ConfigError, nearest
from portrait_jax.nn.attention import Attention
from portrait_jax.nn.norms import BatchNorm
from portrait_jax.typing import Array, Float

QUERIES = ("patches", "identity")
NORM_EPS = 1e-3


@dataclass(frozen=True)
class IdentityAdapterConfig:
    """Sizes of the adapters; the defaults are the release's."""

    width: int = 384
    """Features inside; a multiple of 16."""
    attention_width: int = 256
    heads: int = 8
    blocks: tuple[int, ...] = (3, 7, 11, 15, 19, 23)
    """Blocks of the image encoder that have one, counted from 0."""
    gain: float = 0.2
    query: str = "patches"
    """Who attends to whom. "patches" (the release): patches ask, identity tokens answer; with one identity token all patches get
    the same answer and the convolutions have no influence. "identity" (the paper): the identity asks, patches answer, and the
    answer (the mean over identity tokens) goes to all patches."""

    def __post_init__(self) -> None:
        if self.query not in QUERIES:
            raise ConfigError(f"'{self.query}' cannot ask in an identity adapter{nearest(self.query, QUERIES)}")
        if self.width % 16 or self.attention_width % self.heads:
            raise ConfigError("an identity adapter's width must be a multiple of 16, attention_width one of its heads")


class ConvNorm(nn.Module):
    """Convolution, norm with stored statistics, ReLU; names conv and bn."""

    channels: int
    size: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w out"]:
        init = nn.initializers.he_normal()
        side, reach = (self.size, self.size), (self.size // 2, self.size // 2)
        x = nn.Conv(self.channels, side, padding=(reach, reach), kernel_init=init, dtype=self.dtype, name="conv")(x)
        return jax.nn.relu(BatchNorm(NORM_EPS, name="bn")(x))


class IdentityAttention(nn.Module):
    """Cross-attention between patches and identity in a width of its own; names image_proj, id_proj, multihead_attn, back_proj."""

    config: IdentityAdapterConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, patches: Float[Array, "b n d"], identity: Float[Array, "b k e"]) -> Float[Array, "b n d"]:
        config = self.config
        own = nn.Dense(config.attention_width, dtype=self.dtype, name="image_proj")(patches)
        theirs = nn.Dense(config.attention_width, dtype=self.dtype, name="id_proj")(identity)
        attend = Attention(config.heads, qkv_bias=True, dtype=self.dtype, name="multihead_attn")
        if config.query == "patches":
            out = attend(own, theirs)
        else:
            out = jnp.broadcast_to(attend(theirs, own).mean(1, keepdims=True), own.shape)
        return nn.Dense(patches.shape[-1], dtype=self.dtype, name="back_proj")(out)


class IdentityAdapter(nn.Module):
    """Down to `width`, patches through three convolutions and the attention to the identity, plus the input, up again.

    There is no skip around it: the block adds its result to the feed-forward layer's. Convolution kernels reach over 1, 3 and 5
    patches (half, a quarter and a quarter of the features).
    """

    config: IdentityAdapterConfig = IdentityAdapterConfig()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], identity: Float[Array, "b k e"], grid: tuple[int, int]
    ) -> Float[Array, "b n d"]:
        """`x`: normalised tokens whose last rows · columns are the patches of `grid`; `identity`: vectors of unit length."""
        config, batch = self.config, x.shape[0]
        down = jax.nn.relu(nn.Dense(config.width, dtype=self.dtype, name="D_fc1")(x))
        first = x.shape[1] - grid[0] * grid[1]
        patches = down[:, first:]
        patches = self._scales(patches.reshape(batch, *grid, config.width)).reshape(patches.shape)
        told = IdentityAttention(config, self.dtype, name="cross_attn")(patches, identity)
        hidden = jnp.concatenate([down[:, :first], told], axis=1) + down
        return nn.Dense(x.shape[-1], dtype=self.dtype, name="D_fc2")(hidden)

    def _scales(self, picture: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        width, conv = self.config.width, partial(ConvNorm, dtype=self.dtype)
        branches = [conv(width // 2, 1, name="branch1")(picture)]
        for name, size in (("branch2", 3), ("branch3", 5)):
            narrow = conv(width // 16, 1, name=f"{name}_0")(picture)
            branches.append(conv(width // 4, size, name=f"{name}_1")(narrow))
        return jnp.concatenate(branches, axis=-1)


def identity_adapter(config: IdentityAdapterConfig) -> BlockAdapter:
    """What an image encoder takes as its `adapter`; it reads identity tokens "b k e"."""
    return BlockAdapter(partial(IdentityAdapter, config), config.blocks, config.gain)
