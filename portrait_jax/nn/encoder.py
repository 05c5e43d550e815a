"""The transformer stack that CLIP's towers share, and self-attention with transformers' names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from portrait_jax.nn.attention import Mask, attention, split_heads
from portrait_jax.nn.feedforward import MLP
from portrait_jax.nn.norms import LayerNorm
from portrait_jax.typing import Array, Float

Tokens = Float[Array, "b n d"]


@dataclass(frozen=True)
class StackConfig:
    """What a stack of layers needs to know; the width comes from its input."""

    layers: int
    heads: int
    mlp: int
    activation: str = "gelu"


class SelfAttention(nn.Module):
    """Multi-head self-attention with biases; names q_proj, k_proj, v_proj, out_proj."""

    heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Tokens, mask: Mask | None = None) -> Tokens:
        """`mask` is true where a query may attend."""

        def project(name: str, x: Tokens) -> Tokens:
            return nn.Dense(x.shape[-1], dtype=self.dtype, name=name)(x)

        q, k, v = (split_heads(project(name, x), self.heads) for name in ("q_proj", "k_proj", "v_proj"))
        return project("out_proj", attention(q, k, v, mask=mask).reshape(x.shape))


class EncoderLayer(nn.Module):
    """Pre-norm transformer layer; names self_attn, mlp, layer_norm1 and layer_norm2."""

    config: StackConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Tokens, mask: Mask | None = None) -> Tokens:
        config = self.config
        x = x + SelfAttention(config.heads, self.dtype, name="self_attn")(LayerNorm(name="layer_norm1")(x), mask)
        return x + MLP(config.mlp, config.activation, self.dtype, name="mlp")(LayerNorm(name="layer_norm2")(x))


class Encoder(nn.Module):
    """The stack `layers_0 … layers_n`."""

    config: StackConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Tokens, mask: Mask | None = None) -> tuple[Tokens, ...]:
        """Hidden states: the input, then the output of each layer (layers + 1 entries); none is normalised.

        Entries that are not used cost nothing under jit.
        """
        states = [x]
        for i in range(self.config.layers):
            states.append(EncoderLayer(self.config, self.dtype, name=f"layers_{i}")(states[-1], mask))
        return tuple(states)
