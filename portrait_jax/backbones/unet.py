"""The Stable Diffusion 1.5 UNet, in two dimensions or over frames, with slots for what systems add.

Source: diffusers `UNet2DConditionModel`; with temporal slots the inflated UNet of AnimateDiff and its successors
(per-frame norms). Parameter names are diffusers' with `_` before numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn

from portrait_jax.backbones.unet_blocks import (
    DownBlock,
    Features,
    Inputs,
    MidBlock,
    Style,
    UpBlock,
    run_slots,
    transformer_path,
)
from portrait_jax.conditioning import Conditioning, FeatureCache
from portrait_jax.errors import ConfigError, ShapeError, nearest
from portrait_jax.nn.conv import conv3x3
from portrait_jax.nn.embeddings import TimestepEmbedding, place_table, timestep_embedding
from portrait_jax.nn.norms import GroupNorm
from portrait_jax.nn.slots import Site, Slot, residual_slot
from portrait_jax.nn.temporal import TemporalConfig, temporal_slot
from portrait_jax.typing import Array, Float, Num

CONTEXT_FIELDS = ("image_tokens", "text")
INPUT_FIELDS = {"known": "b f h w c -> b f h w c", "given": "b f -> b f 1 1 1", "portrait": "b h w c -> b 1 h w c"}
"""What can be joined to the noisy latents: field of the conditioning → how it spreads over frames, places and channels."""
Captured = dict[str, Float[Array, "b f n d"]]


@dataclass(frozen=True)
class LevelsConfig:
    """What all UNets have: levels of residual blocks, with transformers at some."""

    in_channels: int = 4
    """Channels of the noisy latents."""
    out_channels: int = 4
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    """Width of each level, finest first; each level but the last halves space."""
    layers_per_block: int = 2
    """Layers per level of the encoder; the decoder has one more."""
    attention_levels: tuple[bool, ...] = (True, True, True, False)
    """Levels with spatial transformers; the middle always has one."""
    norm_groups: int = 32
    gradient_checkpointing: bool = False
    joined_inputs: tuple[str, ...] = ()
    """Fields of the conditioning joined to the noisy latents before the first convolution, in this order: `known` and
    `portrait` (as wide as the latents), `given` (one channel). Absent ones count as zeros: nothing is known."""

    def __post_init__(self) -> None:
        if len(self.attention_levels) != len(self.block_out_channels):
            raise ConfigError(
                f"attention_levels has {len(self.attention_levels)} entries and block_out_channels "
                f"{len(self.block_out_channels)}; give one entry per level in both"
            )
        for field in self.joined_inputs:
            if field not in INPUT_FIELDS:
                raise ConfigError(f"the first convolution cannot read '{field}'{nearest(field, tuple(INPUT_FIELDS))}")

    @property
    def joined_channels(self) -> int:
        """Input channels beside those of the noisy latents."""
        return sum(self.joined_width(field) for field in self.joined_inputs)

    def joined_width(self, field: str) -> int:
        """Channels of one of the `joined_inputs`."""
        return 1 if field == "given" else self.in_channels


@dataclass(frozen=True)
class UNetConfig(LevelsConfig):
    """Sizes of a UNet; the defaults are Stable Diffusion 1.5's."""

    num_heads: int = 8
    context_dim: int | None = 768
    """Width of the tokens that cross-attention reads; None: no cross-attention."""
    temporal: TemporalConfig | None = None
    output_head: bool = True
    """False: a reference net, which ends at the first norm of its last transformer and only captures."""
    context_field: str = "image_tokens"
    """Field of the conditioning that cross-attention reads: `image_tokens`, or `text`."""
    image_prompt_dim: int | None = None
    """Width of those tokens if a linear layer `clip_fc` brings them to `context_dim`."""
    place_embedding: bool = False
    """Adds a linear map of `place_table` to conv_in's output. A pretrained network knows places from its convolutions' padding;
    one trained from scratch finds the same place in a reference much sooner if told."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.context_field not in CONTEXT_FIELDS:
            raise ConfigError(
                f"cross-attention cannot read '{self.context_field}'{nearest(self.context_field, CONTEXT_FIELDS)}"
            )


def attention_paths(config: UNetConfig) -> tuple[str, ...]:
    """Paths of the spatial transformers in running order: the keys of captured and of reference features."""
    sites = layer_sites(config)
    return tuple(transformer_path(site) for site in sites if site.level is None or config.attention_levels[site.level])


def layer_sites(config: LevelsConfig) -> tuple[Site, ...]:
    """Where slots after layers sit, in running order."""
    widths, layers = config.block_out_channels, config.layers_per_block
    levels = range(len(widths))
    down = [Site(f"down_blocks_{i}", j, i, widths[i]) for i in levels for j in range(layers)]
    up = [
        Site(f"up_blocks_{len(widths) - 1 - i}", j, i, widths[i]) for i in reversed(levels) for j in range(layers + 1)
    ]
    return (*down, Site("mid_block", 0, None, widths[-1]), *up)


def embed_time(timestep: Num[Array, " t"], width: int, dtype: Any) -> Float[Array, "t d"]:
    """The module `time_embedding` on sinusoids of `width`, to 4·width features; called inside a compact method."""
    waves = timestep_embedding(timestep, width)
    return TimestepEmbedding(4 * width, dtype=dtype, name="time_embedding")(waves)


def run_encoder(
    config: LevelsConfig, style: Style, x: Features, inputs: Inputs, count: int | None = None
) -> tuple[Features, list[Features]]:
    """The modules `down_blocks_i` on conv_in's output: the coarsest result, and all skips, finest first, or the first `count`
    of them; called inside a compact method."""
    skips, last = [x], len(config.block_out_channels) - 1
    for i, width in enumerate(config.block_out_channels):
        if len(skips) == count:
            break
        attend = config.attention_levels[i]
        block = DownBlock(style, i, width, config.layers_per_block, attend, i < last, name=f"down_blocks_{i}")
        x, new = block(x, inputs, None if count is None else count - len(skips))
        skips += new
    return x, skips


def join_inputs(
    config: LevelsConfig, x: Float[Array, "b f h w c"], conditioning: Conditioning
) -> Float[Array, "b f h w z"]:
    """The first convolution's input: the noisy latents and what `joined_inputs` names."""
    parts = [x]
    for field in config.joined_inputs:
        value = getattr(conditioning, field)
        spread = jnp.zeros(()) if value is None else rearrange(value, INPUT_FIELDS[field])
        parts.append(jnp.broadcast_to(spread, (*x.shape[:-1], config.joined_width(field))).astype(x.dtype))
    return jnp.concatenate(parts, axis=-1)


def run_unet(
    config: LevelsConfig, style: Style, x: Features, inputs: Inputs, cache: FeatureCache | None = None
) -> tuple[Features, Float[Array, "b f _ _ _"] | None]:
    """Encoder, middle and decoder on conv_in's output; called inside a compact method.

    With a `cache` the second result is what enters the last `depth` layers of the decoder. If the cache holds it these layers
    alone run, and what of the encoder their skips need (DeepCache, arXiv 2312.00858, section 3.2).
    Raises ConfigError for a depth that leaves nothing to keep.
    """
    depth = None if cache is None else check_depth(config, cache.depth)
    if cache is not None and cache.deep is not None:
        x, skips = run_encoder(config, style, x, inputs, depth)
        kept = cache.deep.reshape(-1, *cache.deep.shape[2:])
        return run_decoder(config, style, kept, after_encoder(style, skips, inputs), inputs)[0], cache.deep
    x, skips = run_encoder(config, style, x, inputs)
    skips = after_encoder(style, skips, inputs)
    x = MidBlock(style, config.block_out_channels[-1], name="mid_block")(x, inputs)
    x = run_slots(style, inputs, Site("mid_block", 0, None, x.shape[-1]), x, "after_mid")
    x, entered = run_decoder(config, style, x, skips, inputs)
    return x, None if depth is None else entered[-depth].reshape(-1, inputs.frames, *entered[-depth].shape[1:])


def check_depth(config: LevelsConfig, depth: int) -> int:
    """The depth of a feature cache; raises ConfigError unless some layers of the decoder, and not all, run anew."""
    layers = len(config.block_out_channels) * (config.layers_per_block + 1)
    if not 0 < depth < layers:
        raise ConfigError(f"sampling.cache_depth {depth} must be 1 to {layers - 1}: this decoder has {layers} layers")
    return depth


def after_encoder(style: Style, skips: list[Features], inputs: Inputs) -> list[Features]:
    """The skips, finest first, with what slots add to them."""
    return [
        run_slots(style, inputs, Site("skips", i, None, skip.shape[-1]), skip, "after_encoder")
        for i, skip in enumerate(skips)
    ]


def run_decoder(
    config: LevelsConfig, style: Style, x: Features, skips: list[Features], inputs: Inputs
) -> tuple[Features, list[Features]]:
    """The modules `up_blocks_i`: the result, and what entered each of their layers; as many layers as there are skips, the last
    ones; called inside a compact method."""
    widths, layers, entered = config.block_out_channels, config.layers_per_block + 1, []
    for i, level in enumerate(reversed(range(len(widths)))):
        if style.stop_at in inputs.features:
            break
        used = skips[level * layers : (level + 1) * layers][::-1]
        if not used:
            continue
        size = skips[level * layers - 1].shape[1:3] if level else None
        block = UpBlock(
            style, i, level, widths[level], config.attention_levels[level], level > 0, layers - len(used), name=f"up_blocks_{i}"
        )  # fmt: skip
        x, new = block(x, used, inputs, size)
        entered += new
    return x, entered


def output_head(config: LevelsConfig, x: Features, dtype: Any) -> Features:
    """Group norm, SiLU, convolution to the prediction; called inside a compact method."""
    x = jax.nn.silu(GroupNorm(config.norm_groups, name="conv_norm_out")(x))
    return conv3x3(config.out_channels, dtype=dtype, name="conv_out")(x)


class UNet(nn.Module):
    """Predicts from noisy latents, noise level and conditioning; see `__call__`.

    `slots` run in the given order, after the residual of `Conditioning.spatial` and before the config's temporal modules.
    """

    config: UNetConfig
    slots: tuple[Slot, ...] = ()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b f h w c"],
        timestep: Num[Array, " t"],
        conditioning: Conditioning | None = None,
        *,
        capture: bool = False,
        use_temporal: bool = True,
    ) -> Float[Array, "b f h w out"] | tuple[Float[Array, "b f h w out"] | None, Captured | Array | None] | None:
        """Runs the network on latents (h, w in latent pixels) at one noise level per clip, or per frame (t = b·f, clip by clip).

        Returns "b f h w out"; with `conditioning.cache` also the features "b f h w c" that it is about, see `run_unet`.
        With `capture` also returns the normalised self-attention input of every transformer by path (`attention_paths`);
        without an output head the first of the two is None. `use_temporal=False` passes over all slots that mix frames:
        each frame is then processed alone. Missing context tokens count as zero tokens.
        Raises ConfigError if there is no output head and `capture` is off.
        """
        config = self.config
        if not config.output_head and not capture:
            raise ConfigError("a UNet without output head has no prediction; call it with capture=True")
        batch, frames = x.shape[:2]
        conditioning = conditioning or Conditioning()
        cache, conditioning = conditioning.cache, conditioning.replace(cache=None)
        style = self._style(use_temporal)
        time = embed_time(timestep, config.block_out_channels[0], self.dtype)
        context = None if config.context_dim is None else self._context(conditioning, batch)
        inputs = Inputs(time, context, conditioning, frames, {})

        hidden = join_inputs(config, x, conditioning)
        hidden = conv3x3(config.block_out_channels[0], dtype=self.dtype, name="conv_in")(
            hidden.reshape(-1, *hidden.shape[2:])
        )
        if config.place_embedding:
            place = place_table(*hidden.shape[1:3])
            hidden = hidden + nn.Dense(hidden.shape[-1], dtype=self.dtype, name="place_embedding")(place)
        hidden = run_slots(style, inputs, Site("conv_in", 0, 0, hidden.shape[-1]), hidden, "after_conv_in")
        hidden, deep = run_unet(config, style, hidden, inputs, cache)
        out = None
        if config.output_head:
            head = output_head(config, hidden, self.dtype)
            out = head.reshape(batch, frames, *x.shape[2:4], -1).astype(x.dtype)
        if not capture:
            return out if cache is None else (out, deep)
        return out, {path: y.reshape(batch, frames, *y.shape[1:]) for path, y in inputs.features.items()}

    def _style(self, use_temporal: bool) -> Style:
        config = self.config
        temporal = () if config.temporal is None else (temporal_slot(config.temporal),)
        ordered = sorted((residual_slot(), *self.slots, *temporal), key=lambda slot: slot.late)
        slots = tuple(slot for slot in ordered if use_temporal or not slot.over_time)
        stop_at = None if config.output_head else attention_paths(config)[-1]
        return Style(config.num_heads, config.norm_groups, slots, config.gradient_checkpointing, stop_at, self.dtype)

    def _context(self, conditioning: Conditioning, batch: int) -> Float[Array, "b k d"]:
        """Tokens for cross-attention. Equal tokens attend like one of them, so zero tokens need no number."""
        config, tokens = self.config, getattr(conditioning, self.config.context_field)
        if tokens is None:
            tokens = jnp.zeros((batch, 1, config.image_prompt_dim or config.context_dim), self.dtype)
        if config.image_prompt_dim is not None:
            return nn.Dense(config.context_dim, dtype=self.dtype, name="clip_fc")(tokens)
        if tokens.shape[-1] != config.context_dim:
            raise ShapeError(
                f"{config.context_field} has width {tokens.shape[-1]}, cross-attention reads {config.context_dim}; "
                "set image_prompt_dim to project them"
            )
        return tokens
