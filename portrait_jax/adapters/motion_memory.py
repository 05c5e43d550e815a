"""Motion memory: learned tokens refine what an expression encoder says of a frame, aware of how much the face moves.

Source: HunyuanPortrait (arXiv 2503.18860, section 3.3; Tencent-Hunyuan/HunyuanPortrait, src/models/condition/refine_motion.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn

from portrait_jax.nn.attention import Attention
from portrait_jax.nn.feedforward import MLP
from portrait_jax.nn.norms import AdaLayerNorm, LayerNorm
from portrait_jax.typing import Array, Float, Int

Tokens = Float[Array, "b n d"]


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


class MemoryBlock(nn.Module):
    """Memories attend to themselves and to the features, then a feed-forward; norms are told the intensity."""

    heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, memory: Tokens, features: Float[Array, "b m d"], intensity: Float[Array, "b e"]) -> Tokens:
        def norm(name: str, x: Array) -> Array:
            return AdaLayerNorm(dtype=self.dtype, name=name)(x, intensity)

        own = norm("ln_1", memory)
        seen = jnp.concatenate([own, norm("ln_2", features)], axis=1)
        memory = memory + Attention(self.heads, qkv_bias=True, dtype=self.dtype, name="attn")(own, seen)
        mlp = MLP(4 * memory.shape[-1], "squared_relu", self.dtype, ("c_fc", "c_proj"), name="mlp")
        return memory + mlp(norm("ln_ff", memory))


class Connector(nn.Module):
    """Features of frames and their intensity to tokens; the layers of the memory."""

    config: MotionMemoryConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "b m e"], intensity: Float[Array, "b d"]) -> Float[Array, "b n out"]:
        config, dtype = self.config, self.dtype
        features = nn.Dense(config.width, dtype=dtype, name="proj_in")(features)
        shift = nn.Dense(config.width, dtype=dtype, name="intensity_aware_linear")(jax.nn.silu(intensity))
        if config.memory:
            init = nn.initializers.normal(config.width**-0.5)
            memory = self.param("latents", init, (config.tokens, config.width)).astype(dtype)
            x = memory + shift[:, None]
            for i in range(config.layers):
                x = MemoryBlock(config.heads, dtype, name=f"perceiver_blocks_{i}")(x, features, intensity)
        else:
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
        config = self.config

        def look_up(name: str, level: Array) -> Array:
            table = nn.Embed(config.levels, config.intensity_width, dtype=self.dtype, name=name)
            return table(jnp.minimum(level.reshape(-1), config.levels - 1))

        intensity = look_up("position_head", head) + look_up("position_exp", expression)
        if not config.intensity:
            intensity = jnp.zeros_like(intensity)
        items = rearrange(features, "b f m e -> (b f) m e")
        tokens = Connector(config, self.dtype, name="connector")(items, intensity)
        return tokens.reshape(*features.shape[:2], *tokens.shape[1:]).astype(jnp.float32)
