"""Spatio-temporal transformer: a block over the places of each frame, one over the frames of each place, and their blend.

Source: diffusers `TransformerSpatioTemporalModel` and `TemporalBasicTransformerBlock`, as Stable Video Diffusion uses them.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn

from portrait_jax.conditioning import Conditioning
from portrait_jax.errors import ConfigError, nearest
from portrait_jax.nn.attention import Attention
from portrait_jax.nn.embeddings import TimestepEmbedding, timestep_embedding
from portrait_jax.nn.feedforward import FeedForward
from portrait_jax.nn.norms import GroupNorm, LayerNorm
from portrait_jax.nn.resnet import AlphaBlender
from portrait_jax.nn.slots import Site, Slot, apply_slots
from portrait_jax.nn.transformer import TransformerBlock
from portrait_jax.typing import Array, Float

BLEND_START = 0.5
"""Of every mix_factor in a new backbone."""

Video = Float[Array, "b f n c"]
Context = Float[Array, "b *f k d"]
"""Tokens of a clip, or of each of its frames."""

OVER_TIME = {"first": lambda tokens: tokens[:, 0], "mean": lambda tokens: tokens.mean(1)}
"""How tokens of frames "b f k d" become those of a clip "b k d"."""


def check_over_time(name: str) -> None:
    """Raises ConfigError for a rule that does not exist."""
    if name not in OVER_TIME:
        raise ConfigError(f"tokens cannot be joined over time by '{name}'{nearest(name, tuple(OVER_TIME))}")


def of_clip(tokens: Context, rule: str) -> Float[Array, "b k d"]:
    """The tokens that all frames of a clip share; `rule` is a name in `OVER_TIME`."""
    return OVER_TIME[rule](tokens) if tokens.ndim == 4 else tokens


def of_frames(tokens: Context) -> Float[Array, "_ k d"]:
    """Tokens with frames folded into the batch, as layers over places take them."""
    return tokens.reshape(-1, *tokens.shape[-2:])


class TemporalTransformerBlock(nn.Module):
    """x += ff_in(norm_in x); x += attn1(norm1 x) along time; x += attn2(norm2 x, context); x += ff(norm3 x)."""

    heads: int
    site: Site
    slots: tuple[Slot, ...] = ()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Video, context: Float[Array, "b k d"] | None, conditioning: Conditioning) -> Video:
        x = x + FeedForward(dtype=self.dtype, name="ff_in")(LayerNorm(name="norm_in")(x))
        places = rearrange(LayerNorm(name="norm1")(x), "b f n c -> (b n) f c")
        places = Attention(self.heads, dtype=self.dtype, name="attn1")(places)
        x = x + rearrange(places, "(b n) f c -> b f n c", b=x.shape[0])
        if context is not None:
            # All places and frames read the same tokens, so their order does not matter.
            def plug(*tokens: Array) -> Array:
                values, queries = (y.reshape(x.shape) for y in tokens)
                made = apply_slots(
                    self.slots, "in_temporal_attn2", self.site, values, conditioning, self.dtype, queries
                )
                return made.reshape(tokens[0].shape)

            frames = LayerNorm(name="norm2")(x).reshape(-1, *x.shape[2:])
            attend = Attention(self.heads, dtype=self.dtype, name="attn2")
            x = x + attend(frames, context, join=plug).reshape(x.shape)
        return x + FeedForward(dtype=self.dtype, name="ff")(LayerNorm(name="norm3")(x))


class SpatioTemporalTransformer(nn.Module):
    """Group norm (eps 1e-6), linear, a spatial block, a temporal block on its result, their blend, linear, plus the input.

    Call and result are those of `SpatialTransformer`. Where a frame lies in the window is told to the temporal block by a
    sinusoid of its number, from 0 on.
    """

    heads: int
    site: Site
    slots: tuple[Slot, ...] = ()
    groups: int = 32
    over_time: str = "first"
    """What the temporal block reads of tokens that frames have for themselves, see `OVER_TIME`."""
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "bf h w c"],
        context: Context | None,
        reference: Float[Array, "b m c"] | None,
        conditioning: Conditioning,
        frames: int,
    ) -> tuple[Float[Array, "bf h w c"], Float[Array, "bf n c"]]:
        channels, dtype = x.shape[-1], self.dtype
        tokens = GroupNorm(self.groups, 1e-6, name="norm")(x).reshape(x.shape[0], -1, channels)
        tokens = nn.Dense(channels, dtype=dtype, name="proj_in")(tokens)
        block = partial(TransformerBlock, self.heads, self.site, self.slots, dtype=dtype)
        spatial, own = block(name="transformer_blocks_0")(
            tokens, None if context is None else of_frames(context), reference, conditioning, frames
        )

        waves = timestep_embedding(jnp.arange(frames), channels)
        number = TimestepEmbedding(4 * channels, dtype, channels, name="time_pos_embed")(waves)
        video = spatial.reshape(-1, frames, *spatial.shape[1:])
        temporal = TemporalTransformerBlock(
            self.heads, self.site, self.slots, dtype, name="temporal_transformer_blocks_0"
        )(
            video + number[:, None].astype(video.dtype),
            None if context is None else of_clip(context, self.over_time),
            conditioning,
        )
        mixed = AlphaBlender(BLEND_START, name="time_mixer")(spatial, temporal.reshape(spatial.shape))
        return x + nn.Dense(channels, dtype=dtype, name="proj_out")(mixed).reshape(x.shape), own
