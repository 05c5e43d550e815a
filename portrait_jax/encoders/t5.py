"""T5 v1.1's encoder (arXiv 1910.10683, 2002.05202; transformers `T5EncoderModel`): text to one vector per token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from portrait_jax.nn.attention import attention, split_heads
from portrait_jax.nn.feedforward import GatedMLP
from portrait_jax.nn.layers import scanned
from portrait_jax.nn.norms import RMSNorm
from portrait_jax.typing import Array, Float, Int

EPS = 1e-6
Tokens = Float[Array, "b n d"]


@dataclass(frozen=True)
class T5Config:
    """Sizes; the defaults are T5 v1.1 XXL's."""

    vocabulary: int = 32128
    width: int = 4096
    layers: int = 24
    heads: int = 64
    head_dim: int = 64
    mlp: int = 10240
    buckets: int = 32
    """Kinds of distance between two tokens that attention tells apart, half of them to each side."""
    max_distance: int = 128
    """Tokens apart from which all distances count alike."""
    remat: str = "none"
    """See `nn.layers.scanned`."""


def distance_buckets(length: int, buckets: int, max_distance: int) -> np.ndarray:
    """Bucket (length, length) int32 of key position minus query position (section 2.1): exact near by, logarithmic beyond.

    The first half of the buckets is for keys at or before the query, the second for those after it.
    """
    offset = np.arange(length)[None] - np.arange(length)[:, None]
    side, exact = buckets // 2, buckets // 4
    distance = np.abs(offset)
    # In float32, as the original computes it: some distances lie on a border.
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    far = exact + (ratio / np.float32(np.log(max_distance / exact)) * np.float32(side - exact)).astype(np.int32)
    return np.where(offset > 0, side, 0) + np.where(distance < exact, distance, np.minimum(far, side - 1))


class T5Attention(nn.Module):
    """Self-attention with unscaled scores and a bias per head and distance; names q, k, v, o, none with a bias."""

    config: T5Config
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Tokens, bias: Float[Array, "1 heads n n"]) -> Tokens:
        config = self.config

        def project(name: str, width: int, x: Array) -> Array:
            return nn.Dense(width, use_bias=False, dtype=self.dtype, name=name)(x)

        inner = config.heads * config.head_dim
        q, k, v = (split_heads(project(name, inner, x), config.heads) for name in ("q", "k", "v"))
        out = attention(q * config.head_dim**0.5, k, v, bias=bias)
        return project("o", config.width, out.reshape(*x.shape[:2], inner))


class AttentionHalf(nn.Module):
    """x + SelfAttention(layer_norm x)."""

    config: T5Config
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Tokens, bias: Float[Array, "1 heads n n"]) -> Tokens:
        return x + T5Attention(self.config, self.dtype, name="SelfAttention")(RMSNorm(EPS, name="layer_norm")(x), bias)


class FeedForwardHalf(nn.Module):
    """x + DenseReluDense(layer_norm x)."""

    config: T5Config
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        mlp = GatedMLP(self.config.mlp, dtype=self.dtype, name="DenseReluDense")
        return x + mlp(RMSNorm(EPS, name="layer_norm")(x))


class T5Layer(nn.Module):
    """Attention and feed-forward; names layer_0 and layer_1. Returns what a scan carries, and no output of its own."""

    config: T5Config
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Tokens, bias: Float[Array, "1 heads n n"]) -> tuple[Tokens, None]:
        x = AttentionHalf(self.config, self.dtype, name="layer_0")(x, bias)
        return FeedForwardHalf(self.config, self.dtype, name="layer_1")(x), None


class Stack(nn.Module):
    """Embedding, layers (`block`, scanned), final norm."""

    config: T5Config
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, ids: Int[Array, "b n"]) -> Tokens:
        config = self.config
        tokens = nn.Embed(config.vocabulary, config.width, dtype=self.dtype, name="embed_tokens")(ids)
        table = nn.Embed(config.buckets, config.heads, dtype=jnp.float32, name="relative_attention_bias")
        buckets = distance_buckets(ids.shape[1], config.buckets, config.max_distance)
        bias = jnp.moveaxis(table(jnp.asarray(buckets)), -1, 0)[None]
        layers = scanned(T5Layer, config.layers, (nn.broadcast,), config.remat)
        tokens, _ = layers(config, self.dtype, name="block")(tokens, bias)
        return RMSNorm(EPS, name="final_layer_norm")(tokens)


class T5Encoder(nn.Module):
    """Token ids to the last hidden state."""

    config: T5Config = T5Config()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, ids: Int[Array, "b n"]) -> Tokens:
        """All tokens see each other, padding too: published video models pass no mask. `ids` end with token 1, then 0."""
        return Stack(self.config, self.dtype, name="encoder")(ids)
