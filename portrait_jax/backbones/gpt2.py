"""GPT-2 (Radford et al. 2019; transformers `GPT2Model`): a causal transformer over tokens, without dropout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from portrait_jax.errors import ShapeError
from portrait_jax.nn.attention import attention, split_heads
from portrait_jax.nn.feedforward import MLP
from portrait_jax.nn.norms import LayerNorm
from portrait_jax.typing import Array, Float, Int

Tokens = Float[Array, "b n d"]
SMALL = nn.initializers.normal(0.02)


@dataclass(frozen=True)
class GPT2Config:
    """Sizes; the defaults are those of the small model."""

    vocabulary: int = 50257
    positions: int = 1024
    """Longest sequence."""
    hidden: int = 768
    layers: int = 12
    heads: int = 12


class Attention(nn.Module):
    """Self-attention on what came before; queries, keys and values come from one projection, `c_attn`."""

    heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        items, length, width = x.shape
        joined = nn.Dense(3 * width, kernel_init=SMALL, dtype=self.dtype, name="c_attn")(x)
        q, k, v = (split_heads(part, self.heads) for part in jnp.split(joined, 3, axis=-1))
        causal = jnp.broadcast_to(jnp.asarray(np.tri(length, dtype=bool)), (items, length, length))
        out = attention(q, k, v, mask=causal).reshape(x.shape)
        return nn.Dense(width, kernel_init=SMALL, dtype=self.dtype, name="c_proj")(out)


class Block(nn.Module):
    """Pre-norm transformer layer of four times the width inside."""

    heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        x = x + Attention(self.heads, self.dtype, name="attn")(LayerNorm(name="ln_1")(x))
        mlp = MLP(4 * x.shape[-1], "gelu_tanh", self.dtype, ("c_fc", "c_proj"), name="mlp")
        return x + mlp(LayerNorm(name="ln_2")(x))


class GPT2(nn.Module):
    """Token numbers to the scores of the token that follows each."""

    config: GPT2Config = GPT2Config()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, ids: Int[Array, "b n"], *, scores: bool = True) -> Float[Array, "b n _"]:
        """Unnormalised log-probabilities over the vocabulary, float32, by the table that tokens are read with.

        `scores=False` gives the hidden states after the last norm instead. Raises ShapeError for too many tokens.
        """
        config = self.config
        if ids.shape[1] > config.positions:
            raise ShapeError(f"{ids.shape[1]} tokens exceed {config.positions} positions; give fewer")
        words = nn.Embed(config.vocabulary, config.hidden, embedding_init=SMALL, dtype=self.dtype, name="wte")
        places = nn.Embed(config.positions, config.hidden, embedding_init=SMALL, dtype=self.dtype, name="wpe")
        x = words(ids) + places(jnp.arange(ids.shape[1]))
        for i in range(config.layers):
            x = Block(config.heads, self.dtype, name=f"h_{i}")(x)
        x = LayerNorm(name="ln_f")(x)
        return words.attend(x).astype(jnp.float32) if scores else x
