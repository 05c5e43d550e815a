"""Latent-motion attention: every frame attends to the tokens of its own motion (X-NeMo, arXiv 2507.23143, section 3.2).

The tokens say what the face does and nothing about where pixels lie, so that a pose can be told without a picture of it.
Source: bytedance/x-nemo-inference, src/models/motion_module.py, with `Spatial_Cross` attentions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from portrait_jax.errors import ShapeError
from portrait_jax.nn.attention import Attention
from portrait_jax.nn.slots import Slot
from portrait_jax.nn.temporal import VideoTransformer
from portrait_jax.typing import Array, Float


@dataclass(frozen=True)
class LatentMotionConfig:
    """Motion cross-attention of a backbone; the defaults are X-NeMo's, at every layer of every level."""

    num_heads: int = 8
    attentions: int = 2
    """Cross-attentions per module, all to the same tokens."""
    levels: tuple[int, ...] | None = None
    """Resolution levels that have it, 0 = finest; None: all."""
    mid: bool = True
    norm_groups: int = 32
    name: str = "motion_modules"


class LatentMotionAttention(nn.Module):
    """A `VideoTransformer` whose attentions let the pixels of a frame attend to that frame's motion tokens.

    Starts as the identity.
    """

    config: LatentMotionConfig = LatentMotionConfig()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b f h w c"], tokens: Float[Array, "b _ k d"]) -> Float[Array, "b f h w c"]:
        """Raises ShapeError if the tokens belong to other clips or frames than the features."""
        if tokens.shape[:2] != x.shape[:2]:
            raise ShapeError(
                f"motion tokens are of {tokens.shape[:2]} clips and frames, features of {x.shape[:2]}; give one set "
                "of tokens per frame"
            )
        config = self.config

        def attend(name: str, x: Array, tokens: Array) -> Array:
            frames, context = (y.reshape(-1, *y.shape[2:]) for y in (x, tokens))
            return Attention(config.num_heads, dtype=self.dtype, name=name)(frames, context).reshape(x.shape)

        module = VideoTransformer(
            config.attentions, attend, config.norm_groups, dtype=self.dtype, name="temporal_transformer"
        )
        return module(x, tokens.astype(x.dtype))


def latent_motion_slot(config: LatentMotionConfig) -> Slot:
    """Puts motion attention after each layer of the configured levels; reads `Conditioning.motion`."""

    def make(site, *, dtype, name):
        return LatentMotionAttention(config, dtype, name=name)

    return Slot("after_layer", config.name, make, field="motion", levels=config.levels, mid=config.mid)
