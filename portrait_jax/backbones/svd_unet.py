"""Stable Video Diffusion's UNet: every residual block and every transformer has a half over space and one over time.

Source: diffusers `UNetSpatioTemporalConditionModel` (arXiv 2311.15127). Parameter names are diffusers' with `_` before numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from portrait_jax.backbones.unet import LevelsConfig, embed_time, join_inputs, output_head, run_unet
from portrait_jax.backbones.unet_blocks import Features, Inputs, Style, run_slots
from portrait_jax.conditioning import Conditioning
from portrait_jax.errors import ConfigError, ShapeError
from portrait_jax.nn.conv import conv3x3
from portrait_jax.nn.embeddings import TimestepEmbedding, timestep_embedding
from portrait_jax.nn.resnet import SpatioTemporalResnetBlock
from portrait_jax.nn.slots import Site, Slot, heads_at, residual_slot
from portrait_jax.nn.spatio_temporal import BLEND_START, SpatioTemporalTransformer, check_over_time
from portrait_jax.typing import Array, Float, Num

COARSE_EPS, FINE_EPS = 1e-5, 1e-6
"""Of norms in residual blocks: of encoder levels without transformers and of the middle; of all others."""


@dataclass(frozen=True)
class SVDUNetConfig(LevelsConfig):
    """Sizes; the defaults are those of SVD-XT, 25 frames at a time."""

    joined_inputs: tuple[str, ...] = ("portrait",)
    num_heads: int | tuple[int, ...] = (5, 10, 20, 20)
    """One number, or one per level; the middle has the last level's."""
    context_dim: int = 1024
    """Width of the tokens that cross-attention reads."""
    ids: int = 3
    """How many numbers `Conditioning.ids` holds."""
    id_dim: int = 256
    """Width of each one's sinusoid."""
    over_time: str = "first"
    """What temporal cross-attention reads of tokens that frames have for themselves: those of the "first", or their "mean"."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_over_time(self.over_time)
        if not isinstance(self.num_heads, int) and len(self.num_heads) != len(self.block_out_channels):
            raise ConfigError(
                f"num_heads has {len(self.num_heads)} entries for {len(self.block_out_channels)} levels; give one per level"
            )


class SVDUNet(nn.Module):
    """Predicts v from noisy latents, noise level and conditioning; `slots` run after the residual of `Conditioning.spatial`."""

    config: SVDUNetConfig = SVDUNetConfig()
    slots: tuple[Slot, ...] = ()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b f h w c"], timestep: Num[Array, " b"], conditioning: Conditioning | None = None
    ) -> Float[Array, "b f h w out"] | tuple[Float[Array, "b f h w out"], Float[Array, "b f _ _ _"] | None]:
        """Runs the network on windows of latents (h, w in latent pixels), each at one noise level.

        `x` is scaled to unit variance, `timestep` is ln(σ̂)/4. Reads `image_tokens` (of a clip or of its frames), `ids`,
        `spatial`, and what `joined_inputs` names; absent tokens, ids and inputs count as zeros.
        Returns "b f h w out"; with `conditioning.cache` also the features that it is about (`backbones.unet.run_unet`).
        Raises ShapeError for tokens or ids of another width than the config's.
        """
        config, dtype = self.config, self.dtype
        batch, frames = x.shape[:2]
        conditioning = conditioning or Conditioning()
        cache, conditioning = conditioning.cache, conditioning.replace(cache=None)
        width = config.block_out_channels[0]
        time = embed_time(timestep, width, dtype) + self._embed_ids(conditioning, batch)
        style = Style(
            config.num_heads, config.norm_groups, (residual_slot(), *self.slots), config.gradient_checkpointing, None, dtype,
            partial(run_resnet, config), partial(make_transformer, config),
        )  # fmt: skip
        inputs = Inputs(time, self._context(conditioning, batch), conditioning, frames, {})

        joined = join_inputs(config, x, conditioning)
        hidden = conv3x3(width, dtype=dtype, name="conv_in")(joined.reshape(-1, *joined.shape[2:]))
        hidden = run_slots(style, inputs, Site("conv_in", 0, 0, width), hidden, "after_conv_in")
        hidden, deep = run_unet(config, style, hidden, inputs, cache)
        out = output_head(config, hidden, dtype).reshape(batch, frames, *x.shape[2:4], -1).astype(x.dtype)
        return out if cache is None else (out, deep)

    def _embed_ids(self, conditioning: Conditioning, batch: int) -> Float[Array, "b e"]:
        """Each number through a sinusoid of its own, joined, then two layers."""
        config = self.config
        ids = conditioning.ids if conditioning.ids is not None else jnp.zeros((batch, config.ids))
        if ids.shape[-1] != config.ids:
            raise ShapeError(f"the backbone is told {config.ids} numbers of a clip, not {ids.shape[-1]}")
        waves = timestep_embedding(ids.reshape(-1), config.id_dim).reshape(batch, -1)
        width = 4 * config.block_out_channels[0]
        return TimestepEmbedding(width, dtype=self.dtype, name="add_embedding")(waves)

    def _context(self, conditioning: Conditioning, batch: int) -> Float[Array, "b *f k d"]:
        width, tokens = self.config.context_dim, conditioning.image_tokens
        if tokens is None:
            return jnp.zeros((batch, 1, width), self.dtype)
        if tokens.shape[-1] != width:
            raise ShapeError(f"image_tokens have width {tokens.shape[-1]}, cross-attention reads {width}")
        return tokens


def run_resnet(config: SVDUNetConfig, style: Style, inputs: Inputs, site: Site, x: Features, channels: int) -> Features:
    """The spatio-temporal residual block of a site. The published weights want another epsilon where nothing attends."""
    encoder_attends = site.block.startswith("down_blocks") and config.attention_levels[site.level or 0]
    eps = FINE_EPS if encoder_attends or site.block.startswith("up_blocks") else COARSE_EPS
    kind = nn.remat(SpatioTemporalResnetBlock, static_argnums=(2,)) if style.remat else SpatioTemporalResnetBlock
    block = kind(
        channels, style.groups, eps, eps, temporal_share=False, start=BLEND_START, dtype=style.dtype,
        name=f"resnets_{site.index}",
    )  # fmt: skip
    return block(x, inputs.frames, inputs.time)


def make_transformer(config: SVDUNetConfig, style: Style, site: Site) -> nn.Module:
    """The spatio-temporal transformer of a site."""
    kind = nn.remat(SpatioTemporalTransformer, static_argnums=(5,)) if style.remat else SpatioTemporalTransformer
    return kind(
        heads_at(style.heads, site), site, style.slots, style.groups, config.over_time, style.dtype,
        name=f"attentions_{site.index}",
    )  # fmt: skip
