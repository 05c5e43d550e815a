"""The causal video autoencoder of CogVideoX (arXiv 2408.06072, section 2.1): 8× in space, 4× in time, the first frame alone.

Source: diffusers `AutoencoderKLCogVideoX`. Convolutions see no later frame, so that a video may come in pieces; the group norms
see one piece at a time, so how it is cut is part of the result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn

from portrait_jax.autoencoders.kl import EPS, LOGVAR_RANGE
from portrait_jax.errors import ConfigError, ShapeError
from portrait_jax.nn.conv import RIGHT_BOTTOM, CausalConv, PointwiseConv, fold, unfold
from portrait_jax.nn.norms import GroupNorm
from portrait_jax.nn.resnet import Downsample, Upsample, nearest
from portrait_jax.typing import Array, Float, PyTree

Video = Float[Array, "_ _ _ _ _"]
Latent = Float[Array, "b lf lh lw z"]
Cache = dict[str, Array]
"""What a stream carries from one piece to the next, see `nn.conv.CausalConv`; empty before the first."""


@dataclass(frozen=True)
class CausalConfig:
    """Sizes; the defaults are CogVideoX's."""

    block_out_channels: tuple[int, ...] = (128, 256, 256, 512)
    """Width of each level, finest first; each level but the last halves space."""
    decoder_channels: tuple[int, ...] = ()
    """The decoder's widths where they differ, finest first."""
    layers_per_block: int = 3
    """Residual blocks per level of the encoder; the decoder has one more."""
    latent_channels: int = 16
    norm_groups: int = 32
    time_levels: int = 2
    """Levels, from the finest, that halve time too."""
    patch_size: int = 1
    """Pixels per side that are folded into channels, see `autoencoders.kl`."""
    shortcuts: bool = False
    """Linear paths in space around every change of resolution and around both heads, as in `autoencoders.kl`, but that those around
    the heads start at zero."""
    scaling_factor: float = 0.7
    """Diffusion sees latent · scaling_factor; `encode` and `decode` do not apply it."""

    def __post_init__(self) -> None:
        if self.decoder_channels and len(self.decoder_channels) != len(self.block_out_channels):
            raise ConfigError("decoder_channels and block_out_channels differ in length; give one width per level")

    @property
    def stride(self) -> int:
        """Pixels per latent pixel."""
        return self.patch_size * 2 ** (len(self.block_out_channels) - 1)

    @property
    def time_stride(self) -> int:
        """Frames per latent frame, after the first, which stands for itself."""
        return 2**self.time_levels

    def latent_frames(self, frames: int) -> int:
        """Latent frames of so many frames encoded at once: 1 of 1 or 3, 13 of 49."""
        for _ in range(self.time_levels):
            frames = (frames + 1) // 2
        return frames


def alone(x: Video) -> bool:
    """Whether the first frame is treated by itself: where there is an odd number of several."""
    return x.shape[1] > 1 and x.shape[1] % 2 == 1


class Pointwise(nn.Module):
    """A 1×1×1 convolution under `conv`."""

    channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Video) -> Video:
        return PointwiseConv(self.channels, self.dtype, axes=3, name="conv")(x)


class ConditionedNorm(nn.Module):
    """Group norm times one linear map of the latent plus another, at every place (arXiv 2209.09002); names norm_layer, conv_y,
    conv_b. The maps are made before they are enlarged, which gives the same."""

    groups: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Video, latent: Latent) -> Video:
        def spread(y: Video, like: Video) -> Video:
            for axis in (1, 2, 3):
                y = nearest(y, like.shape[axis], axis)
            return y

        def mapped(name: str) -> Video:
            y = Pointwise(x.shape[-1], self.dtype, name=name)(latent)
            if not alone(x):
                return spread(y, x)
            return jnp.concatenate([spread(y[:, :1], x[:, :1]), spread(y[:, 1:], x[:, 1:])], axis=1)

        return GroupNorm(self.groups, EPS, name="norm_layer")(x) * mapped("conv_y") + mapped("conv_b")


class CausalResnetBlock(nn.Module):
    """norm1 → SiLU → conv1 → norm2 → SiLU → conv2, plus the input (through conv_shortcut if the width changes)."""

    channels: int
    groups: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Video, cache: Cache, latent: Latent | None = None) -> Video:
        """With a latent the norms are conditioned on it."""
        hidden = x
        for i in (1, 2):
            if latent is None:
                hidden = GroupNorm(self.groups, EPS, name=f"norm{i}")(hidden)
            else:
                hidden = ConditionedNorm(self.groups, self.dtype, name=f"norm{i}")(hidden, latent)
            hidden = CausalConv(self.channels, self.dtype, name=f"conv{i}")(jax.nn.silu(hidden), cache)
        if x.shape[-1] != self.channels:
            x = PointwiseConv(self.channels, self.dtype, axes=3, name="conv_shortcut")(x)
        return x + hidden


class Level(nn.Module):
    """Residual blocks, then what `resize` says: "down" or "up" ("" nothing), in time too if `over_time`."""

    channels: int
    layers: int
    groups: int
    resize: str = ""
    over_time: bool = False
    shortcuts: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Video, cache: Cache, latent: Latent | None = None) -> Video:
        for i in range(self.layers):
            block = CausalResnetBlock(self.channels, self.groups, self.dtype, name=f"resnets_{i}")
            x = block(x, cache, latent)
        if not self.resize:
            return x
        down = self.resize == "down"
        if self.over_time:
            x = halved(x) if down else doubled(x)
        out = (self._halved if down else self._doubled)(rearrange(x, "b f h w c -> (b f) h w c"))
        return rearrange(out, "(b f) h w c -> b f h w c", b=x.shape[0])

    def _halved(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 out"]:
        out = Downsample(self.channels, RIGHT_BOTTOM, self.dtype, name="downsamplers_0")(x)
        return out + self._shortcut(self.channels, fold(x, 2)) if self.shortcuts else out

    def _doubled(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 out"]:
        out = Upsample(self.channels, self.dtype, name="upsamplers_0")(x)
        return out + unfold(self._shortcut(4 * self.channels, x), 2) if self.shortcuts else out

    def _shortcut(self, channels: int, x: Float[Array, "n h w c"]) -> Float[Array, "n h w out"]:
        return PointwiseConv(channels, self.dtype, name="shortcut")(x)


def by_frame(change: Callable[[Array, int], Array], x: Video, size: int) -> Video:
    """`nn.conv.fold` or `unfold` of every frame."""
    if size == 1:
        return x
    frames = change(rearrange(x, "b f h w c -> (b f) h w c"), size)
    return rearrange(frames, "(b f) h w c -> b f h w c", b=x.shape[0])


def halved(x: Video) -> Video:
    """Means of neighbouring frames; of an odd number the first stays."""
    first, rest = x[:, : x.shape[1] % 2], x[:, x.shape[1] % 2 :]
    means = rearrange(rest, "b (f two) h w c -> b f two h w c", two=2).astype(jnp.float32).mean(2)
    return jnp.concatenate([first, means.astype(x.dtype)], axis=1)


def doubled(x: Video) -> Video:
    """Every frame twice; of an odd number the first once."""
    first, rest = x[:, : x.shape[1] % 2], x[:, x.shape[1] % 2 :]
    return jnp.concatenate([first, jnp.repeat(rest, 2, axis=1)], axis=1)


def past_head(channels: int, dtype: Any, x: Video) -> Video:
    """The linear path around norm and last convolution, silent at first, for x is no longer of unit size there; called inside a
    compact method."""
    return PointwiseConv(channels, dtype, zero=True, axes=3, name="shortcut")(x)


class Encoder(nn.Module):
    """A piece of a video to the moments of its latent."""

    config: CausalConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Video, cache: Cache) -> Latent:
        config, widths = self.config, self.config.block_out_channels
        x = CausalConv(widths[0], self.dtype, name="conv_in")(x, cache)
        for i, width in enumerate(widths):
            resize, over_time = "down" if i + 1 < len(widths) else "", i < config.time_levels
            level = Level(width, config.layers_per_block, config.norm_groups, resize, over_time, config.shortcuts, self.dtype,
                          name=f"down_blocks_{i}")  # fmt: skip
            x = level(x, cache)
        x = Level(widths[-1], 2, config.norm_groups, dtype=self.dtype, name="mid_block")(x, cache)
        hidden = jax.nn.silu(GroupNorm(config.norm_groups, EPS, name="norm_out")(x))
        out = CausalConv(2 * config.latent_channels, self.dtype, name="conv_out")(hidden, cache)
        return out + past_head(2 * config.latent_channels, self.dtype, x) if config.shortcuts else out


class Decoder(nn.Module):
    """A piece of latents to frames."""

    config: CausalConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, latent: Latent, cache: Cache) -> Video:
        config, widths = self.config, (self.config.decoder_channels or self.config.block_out_channels)[::-1]
        x = CausalConv(widths[0], self.dtype, name="conv_in")(latent, cache)
        x = Level(widths[0], 2, config.norm_groups, dtype=self.dtype, name="mid_block")(x, cache, latent)
        for i, width in enumerate(widths):
            resize, over_time = "up" if i + 1 < len(widths) else "", i < config.time_levels
            level = Level(width, config.layers_per_block + 1, config.norm_groups, resize, over_time, config.shortcuts, self.dtype,
                          name=f"up_blocks_{i}")  # fmt: skip
            x = level(x, cache, latent)
        hidden = jax.nn.silu(ConditionedNorm(config.norm_groups, self.dtype, name="norm_out")(x, latent))
        channels = 3 * config.patch_size**2
        out = CausalConv(channels, self.dtype, name="conv_out")(hidden, cache)
        return out + past_head(channels, self.dtype, x) if config.shortcuts else out


class CausalAutoencoder(nn.Module):
    """Videos to a Gaussian over latents and back, whole or piece by piece (`encode_streamed`, `decode_streamed`)."""

    config: CausalConfig = CausalConfig()
    dtype: Any = jnp.float32

    def setup(self) -> None:
        self.encoder = Encoder(self.config, self.dtype)
        self.decoder = Decoder(self.config, self.dtype)

    def encode(self, video_pm1: Float[Array, "b f h w 3"]) -> tuple[Latent, Latent]:
        """Mean and log-variance (clamped to [−30, 20]) of the unscaled latent of a whole video, float32."""
        return self.encode_piece(video_pm1, {})[0]

    def decode(self, latent: Latent) -> Float[Array, "b f h w 3"]:
        """Frames of unscaled latents (divide by `scaling_factor` first), all at once: about [−1, 1], not clamped, float32."""
        return self.decode_piece(latent, {})[0]

    def encode_piece(self, video_pm1: Float[Array, "b f h w 3"], cache: Cache) -> tuple[tuple[Latent, Latent], Cache]:
        """The moments of a piece, and the cache for the next. Raises ShapeError if the size is no multiple of the stride."""
        cache, stride = dict(cache), self.config.stride
        if video_pm1.shape[2] % stride or video_pm1.shape[3] % stride:
            raise ShapeError(f"a video of {video_pm1.shape[2:4]} pixels is no multiple of {stride}; resize or pad it")
        folded = by_frame(fold, video_pm1, self.config.patch_size)
        mean, logvar = jnp.split(self.encoder(folded, cache).astype(jnp.float32), 2, axis=-1)
        return (mean, jnp.clip(logvar, *LOGVAR_RANGE)), cache

    def decode_piece(self, latent: Latent, cache: Cache) -> tuple[Float[Array, "b f h w 3"], Cache]:
        """The frames of a piece, and the cache for the next."""
        cache = dict(cache)
        return by_frame(unfold, self.decoder(latent, cache), self.config.patch_size).astype(jnp.float32), cache

    def __call__(self, video_pm1: Float[Array, "b f h w 3"]) -> Float[Array, "b f h w 3"]:
        """Reconstruction through the mean; also the method to initialise with, since it visits every parameter."""
        return self.decode(self.encode(video_pm1)[0])


def streamed(step: Callable[[Array, Cache], tuple[PyTree, Cache]], x: Array, piece: int) -> PyTree:
    """`step` over pieces of `piece` frames in turn, of which the first also takes what does not divide; one scan."""
    count = max(x.shape[1] // piece, 1)
    first = x.shape[1] - (count - 1) * piece
    start, cache = step(x[:, :first], {})
    if count == 1:
        return start
    pieces = rearrange(x[:, first:], "b (n f) h w c -> n b f h w c", f=piece)

    def body(cache: Cache, piece: Array) -> tuple[Cache, PyTree]:
        out, cache = step(piece, cache)
        return cache, out

    _, rest = jax.lax.scan(body, cache, pieces)
    return jax.tree.map(
        lambda a, b: jnp.concatenate([a, rearrange(b, "n b f h w c -> b (n f) h w c")], axis=1), start, rest
    )


def encode_streamed(
    module: CausalAutoencoder, params: PyTree, video_pm1: Float[Array, "b f h w 3"], piece: int = 8
) -> tuple[Latent, Latent]:
    """`encode` by pieces of `piece` frames, a multiple of the time stride; diffusers' result with 8."""
    return streamed(
        lambda x, cache: module.apply({"params": params}, x, cache, method="encode_piece"), video_pm1, piece
    )


def decode_streamed(
    module: CausalAutoencoder, params: PyTree, latent: Latent, piece: int = 2
) -> Float[Array, "b f h w 3"]:
    """`decode` by pieces of `piece` latent frames: the released result with 2, whose 13 latents are cut 3, 2, 2, 2, 2, 2."""
    return streamed(lambda x, cache: module.apply({"params": params}, x, cache, method="decode_piece"), latent, piece)
