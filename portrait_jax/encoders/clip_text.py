"""CLIP's text transformer (transformers `CLIPTextModel`): token ids to the context of cross-attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from portrait_jax.encoders.clip import SMALL, Tower, learned_positions
from portrait_jax.errors import ConfigError, ShapeError
from portrait_jax.nn.encoder import Encoder, Tokens
from portrait_jax.nn.norms import LayerNorm
from portrait_jax.typing import Array, Int


@dataclass(frozen=True)
class CLIPTextConfig(Tower):
    """Sizes of a text transformer; the defaults are ViT-L/14's, as Stable Diffusion 1.5 has it."""

    vocabulary: int = 49408
    positions: int = 77
    """Longest prompt in tokens, begin and end included."""
    hidden: int = 768
    layers: int = 12
    heads: int = 12
    mlp: int = 3072
    activation: str = "quick_gelu"


def empty_prompt(config: CLIPTextConfig, count: int) -> Int[Array, "b n"]:
    """Token ids of "", as CLIP's tokenizer gives them for Stable Diffusion 1.5: begin, end, and ends as padding."""
    end = config.vocabulary - 1
    return jnp.full((count, config.positions), end, jnp.int32).at[:, 0].set(end - 1)


class TextEmbeddings(nn.Module):
    """Token embedding plus learned position."""

    config: CLIPTextConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, ids: Int[Array, "b n"]) -> Tokens:
        config = self.config
        tokens = nn.Embed(
            config.vocabulary, config.hidden, embedding_init=SMALL, dtype=self.dtype, name="token_embedding"
        )(ids)
        places = learned_positions(config.positions, config.hidden)
        return tokens + places[: ids.shape[1]].astype(self.dtype)


class TextModel(nn.Module):
    """Embeddings, layers with a causal mask, final norm."""

    config: CLIPTextConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, ids: Int[Array, "b n"], skip: int) -> Tokens:
        length = ids.shape[1]
        causal = jnp.asarray(np.tri(length, dtype=bool))[None]
        x = TextEmbeddings(self.config, self.dtype, name="embeddings")(ids)
        states = Encoder(self.config.stack, self.dtype, name="encoder")(
            x, jnp.broadcast_to(causal, (len(ids), length, length))
        )
        return LayerNorm(name="final_layer_norm")(states[-skip])


class CLIPText(nn.Module):
    """Prompts to tokens for cross-attention."""

    config: CLIPTextConfig = CLIPTextConfig()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, ids: Int[Array, "b n"], *, clip_skip: int = 1) -> Tokens:
        """Hidden states after the final norm; of the last layer, or of the `clip_skip`-th from the end.

        `ids` are the tokenizer's, padded to equal length; padding attends and is attended to, as Stable Diffusion was trained.
        Raises ShapeError for more tokens than positions, ConfigError for a layer that does not exist.
        """
        config = self.config
        if ids.shape[1] > config.positions:
            raise ShapeError(f"a prompt of {ids.shape[1]} tokens exceeds {config.positions}; truncate it")
        if not 1 <= clip_skip <= config.layers:
            raise ConfigError(
                f"clip_skip {clip_skip} is no layer of {config.layers}; 1 is the last layer, 2 the one before"
            )
        return TextModel(config, self.dtype, name="text_model")(ids, clip_skip)
