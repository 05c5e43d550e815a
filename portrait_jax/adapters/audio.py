"""Audio attention: every frame attends to tokens of the sound around it (AnyExpress; Hallo, arXiv 2406.08801).

A projection makes the tokens once per frame, from the hidden states of a speech encoder over a window of frames; an attention in
every spatial transformer reads them. Silence of the condition is the absence of tokens: all-zero tokens have zero values,
and without biases an attention to them adds exactly nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from portrait_jax.errors import ConfigError, ShapeError, nearest
from portrait_jax.nn.attention import Attention
from portrait_jax.nn.norms import LayerNorm
from portrait_jax.nn.slots import Slot
from portrait_jax.typing import Array, Float

PLACES = ("after_attn2", "after_layer")


@dataclass(frozen=True)
class AudioConfig:
    """Projection and attention; the defaults are those at published size.

    The projection is Hallo's. The attention is a single one per transformer: with Hallo's own module at each of the sixteen
    places the system would train about 0.6 billion parameters, where its paper says 0.3.
    """

    reach: int = 2
    """Frames on either side that a frame's tokens are made of."""
    hidden: int = 512
    tokens: int = 32
    """Per frame."""
    width: int = 768
    """Of the tokens."""
    num_heads: int = 8
    scale: float = 1.0
    """How strongly the sound speaks; 0 is the base without it."""
    place: str = "after_attn2"
    """In every transformer after its cross-attention, or "after_layer": behind the whole transformer."""
    name: str = "audio_attention"

    def __post_init__(self) -> None:
        if self.place not in PLACES:
            raise ConfigError(f"audio attention cannot sit at '{self.place}'{nearest(self.place, PLACES)}")

    @property
    def window(self) -> int:
        """Frames of sound that a frame's tokens are made of."""
        return 2 * self.reach + 1


class AudioProjection(nn.Module):
    """Three layers and a norm; names proj1, proj2, proj3, norm. Source: Hallo, `models/audio_proj.py`."""

    config: AudioConfig = AudioConfig()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, states: Float[Array, "b f win layers d"]) -> Float[Array, "b f k width"]:
        """Hidden states of a speech encoder (`encoders.speech.frame_windows`) to tokens; zero tokens mean no sound is told.

        Raises ShapeError for windows of another length.
        """
        config = self.config
        if states.shape[2] != config.window:
            raise ShapeError(f"sound windows have {states.shape[2]} frames, the projection reads {config.window}")
        x = states.reshape(*states.shape[:2], -1)
        x = jax.nn.relu(nn.Dense(config.hidden, dtype=self.dtype, name="proj1")(x))
        x = jax.nn.relu(nn.Dense(config.hidden, dtype=self.dtype, name="proj2")(x))
        x = nn.Dense(config.tokens * config.width, dtype=self.dtype, name="proj3")(x)
        return LayerNorm(name="norm")(x.reshape(*x.shape[:2], config.tokens, config.width))


class AudioAttention(nn.Module):
    """x + scale · Attn(norm x, tokens): a frame's pixels attend to that frame's tokens; no biases; starts as the identity."""

    config: AudioConfig = AudioConfig()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b f *n c"], tokens: Float[Array, "b _ k d"]) -> Float[Array, "b f *n c"]:
        """`x` is tokens "b f n c" or a video "b f h w c". Raises ShapeError for tokens of other clips or frames."""
        if tokens.shape[:2] != x.shape[:2]:
            raise ShapeError(
                f"audio tokens are of {tokens.shape[:2]} clips and frames, features of {x.shape[:2]}; give one set of "
                "tokens per frame"
            )
        frames = LayerNorm(name="norm")(x).reshape(x.shape[0] * x.shape[1], -1, x.shape[-1])
        context = tokens.reshape(-1, *tokens.shape[2:]).astype(x.dtype)
        attend = Attention(self.config.num_heads, out_bias=False, zero_out=True, dtype=self.dtype, name="attn")
        return x + self.config.scale * attend(frames, context).reshape(x.shape)


def audio_slot(config: AudioConfig) -> Slot:
    """Puts audio attention into every spatial transformer of a backbone; reads `Conditioning.audio`."""

    def make(site, *, dtype, name):
        return AudioAttention(config, dtype, name=name)

    return Slot(config.place, config.name, make, field="audio")
