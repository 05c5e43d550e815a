"""What CLIP's two transformers share."""

from __future__ import annotations

from flax import linen as nn

from portrait_jax.nn.encoder import StackConfig
from portrait_jax.typing import Array, Float

SMALL = nn.initializers.normal(0.02)


class Tower:
    """What both configs say of their layers; mixed into the dataclasses, which give the numbers."""

    hidden: int
    layers: int
    heads: int
    mlp: int
    activation: str

    @property
    def stack(self) -> StackConfig:
        """The layers, without embeddings and heads."""
        return StackConfig(self.layers, self.heads, self.mlp, self.activation)


def learned_positions(count: int, width: int) -> Float[Array, "n d"]:
    """A table of positions, as the parameter `position_embedding/embedding` of the module that calls."""
    return nn.Embed(count, width, embedding_init=SMALL, name="position_embedding").embedding
