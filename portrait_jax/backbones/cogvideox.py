"""CogVideoX's transformer (arXiv 2408.06072, section 2.2): text and video in one sequence, full attention in space and time.

Source: diffusers `CogVideoXTransformer3DModel` (version 1.0, image to video). All blocks are alike: they are compiled once and
scanned. What a system plugs into them sits after their attention (`nn.slots`, `after_attn1`), or joins its keys as memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn

from portrait_jax.conditioning import Conditioning
from portrait_jax.errors import ConfigError, ShapeError
from portrait_jax.nn.attention import attention, split_heads
from portrait_jax.nn.embeddings import TimestepEmbedding, rotary_angles, rotate, timestep_embedding
from portrait_jax.nn.feedforward import FeedForward
from portrait_jax.nn.layers import POLICIES, check_remat, scanned
from portrait_jax.nn.norms import LayerNorm
from portrait_jax.nn.slots import Site, Slot, apply_slots
from portrait_jax.sharding.activations import tokens_apart
from portrait_jax.typing import Array, Float, Num, PyTree

Tokens = Float[Array, "b n c"]
Words = Float[Array, "b k c"]
Heads = Float[Array, "b n heads d"]
Memory = tuple[Float[Array, "items m heads e"], Float[Array, "items m heads e"]]
"""Keys, normalised, and values of tokens that are attended to and have no say of their own."""
Prepare = Callable[[Array, Array], tuple[Array, Array]]
Grid = tuple[int, int, int]
"""Frames, rows and columns of tokens."""


@dataclass(frozen=True)
class CogVideoXConfig:
    """Sizes; the defaults are CogVideoX-5B-I2V's."""

    layers: int = 42
    heads: int = 48
    head_dim: int = 64
    in_channels: int = 32
    """Noisy latents and, behind them, those that are known."""
    out_channels: int = 16
    patch_size: int = 2
    """Latent pixels per side that make a token; time is not cut."""
    text_dim: int = 4096
    text_tokens: int = 226
    time_dim: int = 512
    """Width of the embedded noise level."""
    mlp: int = 4
    """Width of the feed-forward layers over that of the tokens."""
    grid: Grid = (13, 30, 45)
    """Tokens of the videos it was trained on: the learned table of positions has one row for each, after those of the text."""
    eps: float = 1e-5
    head_eps: float = 1e-6
    """Of the norms of queries and keys."""
    out_eps: float = 1e-5
    """Of the last, modulated norm; 1e-6 in the original code, 1e-5 in diffusers."""
    remat: str = "none"
    """What the backward pass keeps of each block, see `nn.layers.scanned`."""

    def __post_init__(self) -> None:
        check_remat(self.remat)
        if self.head_dim % 16:
            raise ConfigError(f"head_dim must be a multiple of 16, not {self.head_dim}: a quarter of it tells time")

    @property
    def width(self) -> int:
        """Of the tokens."""
        return self.heads * self.head_dim

    @property
    def rotary_widths(self) -> tuple[int, int, int]:
        """Parts of a head that turn with time, row and column."""
        return self.head_dim // 4, self.head_dim * 3 // 8, self.head_dim * 3 // 8

    def tokens(self, frames: int, height: int, width: int) -> Grid:
        """The grid of latents of that size; raises ShapeError if the patch does not divide it."""
        if height % self.patch_size or width % self.patch_size:
            raise ShapeError(f"latents of {height}×{width} cannot be cut into patches of {self.patch_size}; pad them")
        return frames, height // self.patch_size, width // self.patch_size


def grid_positions(grid: Grid, trained: Grid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions in time, of rows and of columns: whole numbers at the trained size, otherwise the picture is scaled to fit in.

    As diffusers does it for other sizes: the longer side keeps the trained length, the other is centred.
    """
    (frames, rows, columns), (_, high, wide) = grid, trained
    fits = (
        (high, round(columns * high / rows)) if rows / columns > high / wide else (round(rows * wide / columns), wide)
    )
    starts = [round((whole - size) / 2) for whole, size in zip((high, wide), fits)]

    def spread(start: int, size: int, count: int) -> np.ndarray:
        return np.linspace(start, (start + size) * (count - 1) / count, count)

    along = [spread(*place) for place in zip(starts, fits, (rows, columns))]
    return np.arange(frames, dtype=np.float64), along[0], along[1]


def position_rows(table: Float[Array, "1 n c"], text: int, grid: Grid, trained: Grid) -> Float[Array, "1 _ c"]:
    """The learned table for another grid: fewer frames take the first rows; other sizes and more frames are interpolated."""
    if grid[1:] == trained[1:] and grid[0] <= trained[0]:
        return table[:, : text + grid[0] * grid[1] * grid[2]]
    video = table[0, text:].reshape(*trained, -1)[: grid[0]]
    frames = grid[0] if grid[0] > trained[0] else len(video)
    resized = jax.image.resize(video, (frames, *grid[1:], table.shape[-1]), "linear", antialias=False)
    return jnp.concatenate([table[:, :text], resized.reshape(1, -1, table.shape[-1])], axis=1)


class PatchEmbed(nn.Module):
    """Text and patches as tokens of one width, positions added; names proj, text_proj, pos_embedding."""

    config: CogVideoXConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b f h w c"], text: Float[Array, "b k d"]) -> Float[Array, "b n width"]:
        config, square = self.config, (self.config.patch_size,) * 2
        grid = config.tokens(*x.shape[1:4])
        frames = rearrange(x, "b f h w c -> (b f) h w c")
        frames = nn.Conv(config.width, square, square, "VALID", dtype=self.dtype, name="proj")(frames)
        video = rearrange(frames, "(b f) h w c -> b (f h w) c", b=x.shape[0])
        words = nn.Dense(config.width, dtype=self.dtype, name="text_proj")(text)
        rows = (1, config.text_tokens + int(np.prod(config.grid)), config.width)
        table = self.param("pos_embedding", nn.initializers.zeros, rows)
        positions = position_rows(table, config.text_tokens, grid, config.grid)
        return jnp.concatenate([words, video], axis=1) + positions.astype(self.dtype)


class ModulatedNorm(nn.Module):
    """One layer norm for text and video, each scaled and shifted by the noise level; names linear and norm.

    Returns both, and the gates for what is made of them.
    """

    eps: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, text: Words, video: Tokens, time: Float[Array, "b _"]) -> tuple[Words, Tokens, Array, Array]:
        width, norm = video.shape[-1], LayerNorm(self.eps, name="norm")
        modulation = nn.Dense(6 * width, dtype=self.dtype, name="linear")(jax.nn.silu(time))[:, None]
        shift, scale, gate, text_shift, text_scale, text_gate = jnp.split(modulation, 6, axis=-1)
        words = norm(text) * (1 + text_scale) + text_shift
        return words, norm(video) * (1 + scale) + shift, text_gate, gate


class JointAttention(nn.Module):
    """Self-attention over text and video with norms of each head's queries and keys; names as in diffusers."""

    config: CogVideoXConfig
    dtype: Any = jnp.float32

    def setup(self) -> None:
        config = self.config
        self.to_q, self.to_k, self.to_v, self.to_out_0 = (nn.Dense(config.width, dtype=self.dtype) for _ in range(4))
        self.norm_q, self.norm_k = (LayerNorm(config.head_eps) for _ in range(2))

    def __call__(self, tokens: Tokens, angles: np.ndarray, memory: Memory | None = None) -> Tokens:
        """`angles` (n, d) turn queries and keys. A memory of fewer items than `tokens` is shared: item i has memory i mod b."""
        q, k = self.prepare(self.heads(self.to_q(tokens)), self.heads(self.to_k(tokens)))
        q, k, v = rotate(q, angles), rotate(k, angles), self.heads(self.to_v(tokens))
        if memory is not None:
            share = (len(tokens) // len(memory[0]), 1, 1, 1)
            k, v = (jnp.concatenate([own, jnp.tile(of, share).astype(own.dtype)], 1) for own, of in zip((k, v), memory))
        return self.to_out_0(attention(q, k, v).reshape(tokens.shape))

    def heads(self, x: Tokens) -> Heads:
        return split_heads(x, self.config.heads)

    def prepare(self, q: Float[Array, "*batch d"], k: Float[Array, "*batch2 d"]) -> tuple[Array, Array]:
        """The norms of queries and keys."""
        return self.norm_q(q), self.norm_k(k)

    def remember(self, tokens: Float[Array, "b m c"]) -> Memory:
        """Keys, which are not turned, and values of tokens from elsewhere."""
        return self.norm_k(self.heads(self.to_k(tokens))), self.heads(self.to_v(tokens))


class Block(nn.Module):
    """Joint attention, what systems plug in, joint feed-forward, each but the plugged-in gated by the noise level.

    Names norm1, attn1, norm2, ff. Its output beside the carried (text, video) is, with `capture`, the video's part of what its
    attention sees.
    """

    config: CogVideoXConfig
    grid: Grid
    slots: tuple[Slot, ...] = ()
    capture: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        carry: tuple[Words, Tokens],
        memory: Memory | None,
        time: Float[Array, "b _"],
        conditioning: Conditioning,
    ) -> tuple[tuple[Words, Tokens], Tokens | None]:
        config, words = self.config, carry[0].shape[1]
        text, video = carry[0], tokens_apart(carry[1])
        angles = rotary_angles(grid_positions(self.grid, config.grid), config.rotary_widths)

        own_text, own, text_gate, gate = ModulatedNorm(config.eps, self.dtype, name="norm1")(text, video, time)
        attn1 = JointAttention(config, self.dtype, name="attn1")
        # Text is not turned: by an angle of zero.
        out = attn1(jnp.concatenate([own_text, own], axis=1), np.pad(angles, ((words, 0), (0, 0))), memory)
        text, video = text + text_gate * out[:, :words], video + gate * out[:, words:]

        def prepare(q: Float[Array, "bf n heads d"], k: Float[Array, "b k heads d"]) -> tuple[Array, Array]:
            q, k = attn1.prepare(q, k)
            return rotate(q, angles[: q.shape[1]]), k

        frames = rearrange(video, "b (f n) c -> b f n c", f=self.grid[0])
        site = Site("transformer_blocks", 0, 0, config.width)
        frames = apply_slots(self.slots, "after_attn1", site, frames, conditioning, self.dtype, prepare)
        video = rearrange(frames, "b f n c -> b (f n) c")

        text_in, video_in, text_gate, gate = ModulatedNorm(config.eps, self.dtype, name="norm2")(text, video, time)
        ff = FeedForward(config.mlp, self.dtype, "gelu_tanh", name="ff")
        out = ff(jnp.concatenate([text_in, video_in], axis=1))
        return (text + text_gate * out[:, :words], video + gate * out[:, words:]), own if self.capture else None


class ModulatedHead(nn.Module):
    """A norm scaled and shifted by the noise level; names linear and norm."""

    eps: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Tokens, time: Float[Array, "b _"]) -> Tokens:
        modulation = nn.Dense(2 * x.shape[-1], dtype=self.dtype, name="linear")(jax.nn.silu(time))[:, None]
        shift, scale = jnp.split(modulation, 2, axis=-1)
        return LayerNorm(self.eps, name="norm")(x) * (1 + scale) + shift


class CogVideoX(nn.Module):
    """Noisy latents of a video, told the text and what `conditioning` has for its slots, to the network's prediction."""

    config: CogVideoXConfig = CogVideoXConfig()
    slots: tuple[Slot, ...] = ()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b f h w c"],
        timestep: Num[Array, " b"],
        conditioning: Conditioning,
        *,
        capture: bool = False,
    ) -> Any:
        """Reads `text` "b k d", `known` "b f h w c" (behind the noisy channels), `memory`, and the fields of its slots.

        Returns the prediction "b f h w out"; with `capture` also the tokens "layers b n c" that each block's attention sees
        of the video, for `remember`. With `conditioning.cache` it returns a pair, the prediction and what all blocks together
        added to the video's tokens, "b n c"; if the cache holds that, it is added and no block runs (MagCache, arXiv
        2506.09045, section 3). Raises ShapeError if there is no text or latents and patch do not fit.
        """
        config, size = self.config, self.config.patch_size
        text, cache, conditioning = conditioning.text, conditioning.cache, conditioning.replace(cache=None)
        if text is None or text.shape[1] != config.text_tokens:
            have = "none" if text is None else text.shape[1]
            raise ShapeError(f"this transformer reads {config.text_tokens} tokens of text, not {have}; pad the prompt")
        if conditioning.known is not None:
            x = jnp.concatenate([x, conditioning.known.astype(x.dtype)], axis=-1)
        grid = config.tokens(*x.shape[1:4])
        sinusoid = timestep_embedding(timestep, config.width)
        time = TimestepEmbedding(config.time_dim, self.dtype, name="time_embedding")(sinusoid)
        tokens = PatchEmbed(config, self.dtype, name="patch_embed")(x, text)
        words, entered = tokens[:, : text.shape[1]], tokens[:, text.shape[1] :]
        if cache is not None and cache.deep is not None:
            added, video = cache.deep, entered + cache.deep
        else:
            blocks = scanned(Block, config.layers, (0, nn.broadcast, nn.broadcast), config.remat)
            run = blocks(config, grid, self.slots, capture, self.dtype, name="transformer_blocks")
            memory, rest = conditioning.memory, conditioning.replace(memory=None)
            (_, video), features = run((words, entered), memory, time, rest)
            added = video - entered

        video = LayerNorm(config.eps, name="norm_final")(video)
        video = ModulatedHead(config.out_eps, self.dtype, name="norm_out")(video, time)
        out = nn.Dense(config.out_channels * size**2, dtype=self.dtype, name="proj_out")(video)
        shape = dict(f=grid[0], h=grid[1], w=grid[2], p=size, q=size)
        out = rearrange(out, "b (f h w) (c p q) -> b f (h p) (w q) c", **shape)
        if cache is not None:
            return out, added
        return (out, features) if capture else out


def remember(
    config: CogVideoXConfig, params: PyTree, features: Float[Array, "layers b m c"], dtype: Any = jnp.float32
) -> tuple[Float[Array, "layers b m heads d"], Float[Array, "layers b m heads d"]]:
    """`Conditioning.memory`: keys and values that the blocks of a transformer make of tokens from another one, layer by layer.

    `params` are the transformer's own, `features` what `capture` gave of the other.
    """
    layer = JointAttention(config, dtype)

    def one(_: None, inputs: tuple[PyTree, Array]) -> tuple[None, Memory]:
        own, tokens = inputs
        return None, layer.apply({"params": own}, tokens, method="remember")

    # Otherwise the backward pass keeps every layer's keys, before their norm, in float32.
    run = one if config.remat == "none" else jax.checkpoint(one, prevent_cse=False, policy=POLICIES[config.remat])
    return jax.lax.scan(run, None, (params["transformer_blocks"]["attn1"], features))[1]
