"""Motion memory: learned tokens refine what an expression encoder says of a frame, aware of how much the face moves.

Source: HunyuanPortrait (arXiv 2503.18860, section 3.3; Tencent-Hunyuan/HunyuanPortrait, src/models/condition/refine_motion.py).
Paper and release differ, see `FORMS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn

from portrait_jax.errors import ConfigError, nearest
from portrait_jax.nn.attention import Attention
from portrait_jax.nn.feedforward import MLP
from portrait_jax.nn.norms import AdaLayerNorm, LayerNorm
from portrait_jax.typing import Array, Float, Int

Tokens = Float[Array, "b n d"]


class Form(NamedTuple):
    """What paper and release do differently."""

    updated: bool
    """True: blocks update the memory, which answers itself beside the features, and the intensity is added to it once. False: the
    memory stays as it was learnt and asks, features alone answer, with the intensity added, and the answer is the next block's
    features."""
    residual: bool
    """Whether what a layer makes is added to what stood before it."""
    activation: str
    side_by_side: bool
    """Whether the embeddings of both intensities, each half as wide, stand side by side, or are summed."""

    def onto(self, before: Tokens, after: Tokens) -> Tokens:
        """What goes on behind a layer."""
        return before + after if self.residual else after

    def joined(self, one: Float[Array, "b d"], other: Float[Array, "b d"]) -> Float[Array, "b e"]:
        """The embedding of both intensities."""
        return jnp.concatenate([one, other], axis=-1) if self.side_by_side else one + other


FORMS: Mapping[str, Form] = MappingProxyType(
    {
        "released": Form(updated=True, residual=True, activation="squared_relu", side_by_side=False),
        # Equation 4.
        "paper": Form(updated=False, residual=False, activation="silu", side_by_side=True),
    }
)


@dataclass(frozen=True)
class MotionMemoryConfig:
    """Sizes; the defaults are the release's."""

    tokens: int = 64
    """Memories, and so motion tokens of a frame."""
    width: int = 768
    intensity_width: int = 768
    levels: int = 128
    """Levels of each intensity, see `face.intensity`."""
    layers: int = 6
    heads: int = 8
    out: int = 1018
    """Width of the tokens."""
    memory: bool = True
    """False: linear layers spread each frame's feature over the tokens, and nothing is remembered (an ablation)."""
    intensity: bool = True
    """False: intensities are not looked at (an ablation)."""
    form: str = "released"
    """"released" or "paper" (`FORMS`)."""

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ConfigError(f"a motion memory has no form '{self.form}'{nearest(self.form, tuple(FORMS))}")
        if self.form == "paper" and (self.intensity_width != self.width or self.width % 2):
            raise ConfigError(
                "the paper's motion memory adds intensities to features: make motion_memory.intensity_width "
                f"{self.intensity_width} equal to its width {self.width}, an even number"
            )


class MemoryBlock(nn.Module):
    """Memories attend to features, then a feed-forward; norms are told the intensity. What else, `form` says."""

    heads: int
    form: Form
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, memory: Tokens, features: Float[Array, "b m d"], intensity: Float[Array, "b e"]) -> Tokens:
        def norm(name: str, x: Array) -> Array:
            return AdaLayerNorm(dtype=self.dtype, name=name)(x, intensity)

        form, asking = self.form, memory
        if form.updated:
            asking = norm("ln_1", memory)
            answering = jnp.concatenate([asking, norm("ln_2", features)], axis=1)
        else:
            answering = norm("ln_2", features + intensity[:, None])
        x = form.onto(memory, Attention(self.heads, qkv_bias=True, dtype=self.dtype, name="attn")(asking, answering))
        mlp = MLP(4 * memory.shape[-1], form.activation, self.dtype, ("c_fc", "c_proj"), name="mlp")
        return form.onto(x, mlp(norm("ln_ff", x)))


class Connector(nn.Module):
    """Features of frames and their intensity to tokens; the layers of the memory."""

    config: MotionMemoryConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "b m e"], intensity: Float[Array, "b d"]) -> Float[Array, "b n out"]:
        config, dtype, form = self.config, self.dtype, FORMS[self.config.form]
        features = nn.Dense(config.width, dtype=dtype, name="proj_in")(features)
        # By the paper the memory itself is told nothing.
        shift = jnp.zeros_like(intensity)
        if form.updated:
            shift = nn.Dense(config.width, dtype=dtype, name="intensity_aware_linear")(jax.nn.silu(intensity))
        if config.memory:
            init = nn.initializers.normal(config.width**-0.5)
            memory = self.param("latents", init, (config.tokens, config.width)).astype(dtype)
            x = memory = memory + shift[:, None]
            for i in range(config.layers):
                x = MemoryBlock(config.heads, form, dtype, name=f"perceiver_blocks_{i}")(memory, features, intensity)
                if form.updated:
                    memory = x
                else:
                    features = x
        else:
            features = features if form.updated else features + intensity[:, None]
            spread = nn.Dense(config.tokens * config.width, dtype=dtype, name="spread")(features.mean(1))
            x = spread.reshape(-1, config.tokens, config.width) + shift[:, None]
        return LayerNorm(name="proj_out_1")(nn.Dense(config.out, dtype=dtype, name="proj_out_0")(x))


class MotionMemory(nn.Module):
    """Motion features of frames to motion tokens; every frame alone."""

    config: MotionMemoryConfig = MotionMemoryConfig()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, features: Float[Array, "b f m e"], head: Int[Array, "b f"], expression: Int[Array, "b f"]
    ) -> Float[Array, "b f n d"]:
        """Tokens, float32. `head` and `expression` are the levels of intensity, from 0 on, of the stretch that a frame belongs to
        (`face.intensity`); those beyond `levels` count as the last one."""
        config, form = self.config, FORMS[self.config.form]

        def look_up(name: str, level: Array) -> Array:
            table = nn.Embed(
                config.levels, config.intensity_width // (1 + form.side_by_side), dtype=self.dtype, name=name
            )
            return table(jnp.minimum(level.reshape(-1), config.levels - 1))

        intensity = form.joined(look_up("position_head", head), look_up("position_exp", expression))
        if not config.intensity:
            intensity = jnp.zeros_like(intensity)
        items = rearrange(features, "b f m e -> (b f) m e")
        tokens = Connector(config, self.dtype, name="connector")(items, intensity)
        return tokens.reshape(*features.shape[:2], *tokens.shape[1:]).astype(jnp.float32)
