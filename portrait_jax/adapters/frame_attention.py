"""What a transformer over text and video is told of each frame beside its own sequence: a person, and the frame's sound.

Hallo3 (arXiv 2412.00733, section 3.2) compares ways to tell it, for sound (table 4) and for the person (table 5); after joint
attention, frame by frame, without a gate. Its release attends to the person's tokens, then to those of the frame's sound
(`AdaLNMixin.layer_forward`, `cross_attention_forward_default`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn

from portrait_jax.errors import ConfigError, ShapeError, nearest
from portrait_jax.nn.attention import attention, split_heads
from portrait_jax.nn.norms import LayerNorm
from portrait_jax.nn.slots import Slot
from portrait_jax.typing import Array, Float

Frames = Float[Array, "b f n c"]
Tokens = Float[Array, "b *f k d"]
"""Of a clip, shared by its frames "b k d", or of each frame "b f k d"."""
Prepare = Callable[[Array, Array], tuple[Array, Array]]


def per_frame(x: Frames, tokens: Tokens) -> bool:
    """Whether each frame has tokens of its own; raises ShapeError if they belong to other clips or frames than the features."""
    own = tokens.ndim == 4
    if tokens.shape[: 1 + own] != x.shape[: 1 + own]:
        raise ShapeError(
            f"tokens of shape {tokens.shape} do not fit {x.shape[0]} clips of {x.shape[1]} frames; give one set per "
            + ("frame" if own else "clip")
        )
    return own


class FrameAttention(nn.Module):
    """x + attention of each frame's tokens, normalised, to those it is told; names norm, to_q, to_k, to_v, to_out_0, with biases.

    Heads, their norms and the turning of queries are those of the backbone's own attention. With `own` a frame's own tokens are
    among those attended to, and what it is told first goes through `proj`.
    """

    heads: int
    own: bool = False
    dtype: Any = jnp.float32
    deviations: tuple[float, float] | None = None
    """Of fresh weights that make queries, keys and values, and of those that make the output; None: by their inputs' number."""

    @nn.compact
    def __call__(self, x: Frames, tokens: Tokens, prepare: Prepare) -> Frames:
        """`prepare` makes queries and keys ready, see `nn.slots`. Raises ShapeError as `per_frame`."""

        def project(name: str, y: Array) -> Array:
            init = nn.initializers.lecun_normal()
            if self.deviations is not None:
                init = nn.initializers.normal(self.deviations[name == "to_out_0"])
            return nn.Dense(x.shape[-1], dtype=self.dtype, kernel_init=init, name=name)(y)

        context = rearrange(tokens, "b f k d -> (b f) k d") if per_frame(x, tokens) else tokens
        query = rearrange(LayerNorm(name="norm")(x), "b f n c -> (b f) n c")
        if self.own:
            told = jnp.repeat(project("proj", context), len(query) // len(context), axis=0)
            context = jnp.concatenate([query, told], axis=1)
        q, k, v = (
            split_heads(project(name, y), self.heads)
            for name, y in (("to_q", query), ("to_k", context), ("to_v", context))
        )
        q, k = prepare(q, k)
        # Frames that share their keys are attended to as one item with more queries: no copy of the keys.
        out = attention(q.reshape(k.shape[0], -1, *q.shape[2:]), k, v)
        return x + project("to_out_0", out.reshape(x.shape))


class FrameModulation(nn.Module):
    """x + scale · norm(x) + shift, both from the mean of what a frame is told; names norm and linear.

    With `zero` x + gate · ((1 + scale) · norm(x) + shift), which starts as the identity (adaLN-zero, arXiv 2212.09748, §3.2).
    """

    zero: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Frames, tokens: Tokens, prepare: Prepare) -> Frames:
        """Raises ShapeError as `per_frame`."""
        told = tokens.mean(-2) if per_frame(x, tokens) else tokens.mean(-2)[:, None]
        init = nn.initializers.zeros if self.zero else nn.initializers.lecun_normal()
        linear = nn.Dense((2 + self.zero) * x.shape[-1], dtype=self.dtype, kernel_init=init, name="linear")
        shift, scale, *gate = jnp.split(linear(jax.nn.silu(told))[:, :, None], 2 + self.zero, axis=-1)
        hidden = LayerNorm(name="norm")(x)
        return x + gate[0] * (hidden * (1 + scale) + shift) if gate else x + hidden * scale + shift


KINDS = ("cross", "self", "adaln", "adaln_zero")


def frame_slot(
    name: str, field: str, heads: int, kind: str = "cross", deviations: tuple[float, float] | None = None
) -> Slot:
    """In every block a layer `name`_attn, or `name`_norm, that is told the tokens in one field of the conditioning.

    `deviations`: see `FrameAttention`.

    Raises ConfigError for a kind that is none of `KINDS`: attention to the tokens; to them and the frame's own; modulation of a
    norm; modulation that starts as the identity.
    """
    if kind not in KINDS:
        raise ConfigError(f"frames cannot be told of {name} by '{kind}'{nearest(kind, KINDS)}")

    def make(site, *, dtype, name):
        if kind in ("cross", "self"):
            return FrameAttention(heads, kind == "self", dtype, deviations, name=name)
        return FrameModulation(kind == "adaln_zero", dtype, name=name)

    return Slot("after_attn1", f"{name}_attn" if kind in ("cross", "self") else f"{name}_norm", make, field=field)
