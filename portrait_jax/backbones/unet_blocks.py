"""Down, middle and up blocks of the spatial UNet: residual block → spatial transformer → slots, layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from portrait_jax.conditioning import Conditioning
from portrait_jax.nn.resnet import Downsample, ResnetBlock, Upsample
from portrait_jax.nn.slots import Site, Slot, apply_slots, heads_at
from portrait_jax.nn.transformer import SpatialTransformer
from portrait_jax.typing import Array, Float

Features = Float[Array, "_ _ _ _"]
"""Frames folded into the batch, batch-major: (b·f, h, w, c)."""


def make_transformer(style: Style, site: Site) -> nn.Module:
    """The spatial transformer of a site."""
    kind = nn.remat(SpatialTransformer, static_argnums=(5,)) if style.remat else SpatialTransformer
    return kind(
        heads_at(style.heads, site),
        site,
        style.slots,
        style.groups,
        norm_only=transformer_path(site) == style.stop_at,
        dtype=style.dtype,
        name=f"attentions_{site.index}",
    )


def run_resnet(style: Style, inputs: Inputs, site: Site, x: Features, channels: int) -> Features:
    """The residual block of a site."""
    resnet = nn.remat(ResnetBlock) if style.remat else ResnetBlock
    return resnet(channels, style.groups, dtype=style.dtype, name=f"resnets_{site.index}")(x, inputs.time)


@dataclass(frozen=True)
class Style:
    """What all blocks of one UNet have in common."""

    heads: int | tuple[int, ...]
    """Of attention: one number, or one per level."""
    groups: int
    slots: tuple[Slot, ...]
    remat: bool
    stop_at: str | None
    """Path of the transformer after whose first norm the network ends; None: it runs to the end."""
    dtype: Any
    resnet: Callable[..., Features] = run_resnet
    """(style, inputs, site, features, channels) → features, through `resnets_i`; called inside a block's compact method."""
    transformer: Callable[..., nn.Module] = make_transformer
    """(style, site) → the module `attentions_i`, called as a `SpatialTransformer`."""


@dataclass(frozen=True)
class Inputs:
    """What every layer reads, made once per call."""

    time: Float[Array, "t e"]
    """One row per clip, or per frame."""
    context: Float[Array, "b *f k d"] | None
    conditioning: Conditioning
    frames: int
    features: dict[str, Array]
    """Path of each transformer → output of its first norm, filled in the order in which they run."""


def run_layer(
    style: Style, inputs: Inputs, site: Site, x: Features, channels: int, *, attend: bool, slots: bool = True
) -> Features:
    """One layer: `resnets_i`, `attentions_i` if `attend`, slots. Called inside a block's compact method."""
    x = style.resnet(style, inputs, site, x, channels)
    if attend:
        x = run_transformer(style, inputs, site, x)
    return run_slots(style, inputs, site, x) if slots else x


def run_transformer(style: Style, inputs: Inputs, site: Site, x: Features) -> Features:
    """The spatial transformer `attentions_i` of a site; notes its reference features."""
    path = transformer_path(site)
    reference = (inputs.conditioning.reference or {}).get(path)
    module = style.transformer(style, site)
    x, tokens = module(x, inputs.context, reference, inputs.conditioning, inputs.frames)
    inputs.features[path] = tokens
    return x


def run_slots(style: Style, inputs: Inputs, site: Site, x: Features, where: str = "after_layer") -> Features:
    """The slots of one position outside transformers; they see video "b f h w c"."""
    video = x.reshape(-1, inputs.frames, *x.shape[1:])
    told = inputs.conditioning
    return apply_slots(style.slots, where, site, video, told, style.dtype, remat=style.remat).reshape(x.shape)


def transformer_path(site: Site) -> str:
    """Key of a transformer's reference features, e.g. `down_blocks_0/attentions_1`."""
    return f"{site.block}/attentions_{site.index}"


class DownBlock(nn.Module):
    """Layers of one level, then halving unless it is the last; returns the output and the skips in running order."""

    style: Style
    level: int
    channels: int
    layers: int
    attend: bool
    downsample: bool

    @nn.compact
    def __call__(self, x: Features, inputs: Inputs, count: int | None = None) -> tuple[Features, list[Features]]:
        """Ends after `count` skips if that is given."""
        skips: list[Features] = []
        for i in range(self.layers):
            if len(skips) == count:
                return x, skips
            site = Site(f"down_blocks_{self.level}", i, self.level, self.channels)
            x = run_layer(self.style, inputs, site, x, self.channels, attend=self.attend)
            if i == self.layers - 1:
                x = run_slots(self.style, inputs, site, x, "after_level")
            skips.append(x)
        if self.downsample and len(skips) != count:
            x = Downsample(self.channels, dtype=self.style.dtype, name="downsamplers_0")(x)
            skips.append(x)
        return x, skips


class MidBlock(nn.Module):
    """Residual block, spatial transformer, slots, residual block."""

    style: Style
    channels: int

    @nn.compact
    def __call__(self, x: Features, inputs: Inputs) -> Features:
        x = run_layer(self.style, inputs, Site("mid_block", 0, None, self.channels), x, self.channels, attend=True)
        if self.style.stop_at in inputs.features:
            return x
        last = Site("mid_block", 1, None, self.channels)
        return run_layer(self.style, inputs, last, x, self.channels, attend=False, slots=False)


class UpBlock(nn.Module):
    """Layers of one level, each on [x, skip] joined along channels, then doubling unless it is the finest level.

    Returns the output, and what entered each layer.
    """

    style: Style
    index: int
    level: int
    channels: int
    attend: bool
    upsample: bool
    first: int = 0
    """The layer to begin with."""

    @nn.compact
    def __call__(
        self, x: Features, skips: list[Features], inputs: Inputs, size: tuple[int, int] | None
    ) -> tuple[Features, list[Features]]:
        """`skips` in the order in which they are used; `size` is that of the next level's skips."""
        entered = []
        for i, skip in enumerate(skips, self.first):
            entered.append(x)
            site = Site(f"up_blocks_{self.index}", i, self.level, self.channels)
            x = run_layer(
                self.style, inputs, site, jnp.concatenate([x, skip], axis=-1), self.channels, attend=self.attend
            )
            if self.style.stop_at in inputs.features:
                return x, entered
        if self.upsample:
            x = Upsample(self.channels, dtype=self.style.dtype, name="upsamplers_0")(x, size)
        return x, entered
