"""Spatial transformer: self-attention (with reference tokens), cross-attention, feed-forward, per frame."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from portrait_jax.conditioning import Conditioning
from portrait_jax.nn.attention import Attention
from portrait_jax.nn.conv import PointwiseConv
from portrait_jax.nn.feedforward import FeedForward
from portrait_jax.nn.norms import GroupNorm, LayerNorm
from portrait_jax.nn.slots import Site, Slot, apply_slots
from portrait_jax.typing import Array, Float

Tokens = Float[Array, "bf n c"]


class TransformerBlock(nn.Module):
    """x += attn1(norm1 x, with reference); x += attn2(norm2 x, context); x += ff(norm3 x); slots after and in attentions.

    Reference tokens are joined to the keys and values of attn1 as they are, unnormalised, as published reference nets
    expect it. Returns the output and the output of norm1, which is what a reference net hands over.
    """

    heads: int
    site: Site
    slots: tuple[Slot, ...] = ()
    norm_only: bool = False
    """Stops after norm1: the last block of a reference net."""
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Tokens,
        context: Float[Array, "b k d"] | None,
        reference: Float[Array, "b m c"] | None,
        conditioning: Conditioning,
        frames: int,
    ) -> tuple[Tokens, Tokens]:
        own = LayerNorm(name="norm1")(x)
        if self.norm_only:
            return x, own

        def plug(where: str, *tokens: Tokens) -> Tokens:
            x, *more = (y.reshape(-1, frames, *y.shape[1:]) for y in tokens)
            return apply_slots(self.slots, where, self.site, x, conditioning, self.dtype, *more).reshape(
                tokens[0].shape
            )

        attend = Attention(self.heads, dtype=self.dtype, name="attn1")
        x = x + attend(own, extra=reference, extra_mask=conditioning.reference_mask)
        x = plug("after_attn1", x)
        if context is not None:
            attend = Attention(self.heads, dtype=self.dtype, name="attn2")
            x = x + attend(LayerNorm(name="norm2")(x), context, join=partial(plug, "in_attn2"))
            x = plug("after_attn2", x)
        return x + FeedForward(dtype=self.dtype, name="ff")(LayerNorm(name="norm3")(x)), own


class SpatialTransformer(nn.Module):
    """Group norm (eps 1e-6), 1×1 convolution, one block on the h·w tokens of each frame, 1×1 convolution, plus the input.

    Source: diffusers `Transformer2DModel` as Stable Diffusion 1.5 uses it.
    """

    heads: int
    site: Site
    slots: tuple[Slot, ...] = ()
    groups: int = 32
    norm_only: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "bf h w c"],
        context: Float[Array, "b k d"] | None,
        reference: Float[Array, "b m c"] | None,
        conditioning: Conditioning,
        frames: int,
    ) -> tuple[Float[Array, "bf h w c"], Tokens]:
        """`context` and `reference` are shared by the `frames` frames of a clip. Returns output and reference tokens."""
        channels = x.shape[-1]
        tokens = GroupNorm(self.groups, 1e-6, name="norm")(x)
        tokens = PointwiseConv(channels, dtype=self.dtype, name="proj_in")(tokens).reshape(x.shape[0], -1, channels)
        block = TransformerBlock(
            self.heads, self.site, self.slots, self.norm_only, self.dtype, name="transformer_blocks_0"
        )
        tokens, own = block(tokens, context, reference, conditioning, frames)
        if self.norm_only:
            return x, own
        return x + PointwiseConv(channels, dtype=self.dtype, name="proj_out")(tokens).reshape(x.shape), own
