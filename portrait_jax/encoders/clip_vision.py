"""CLIP's vision transformer (transformers `CLIPVisionModelWithProjection`) and its preprocessing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from portrait_jax.encoders.clip import SMALL, Tower, learned_positions
from portrait_jax.encoders.resize import bicubic_u8
from portrait_jax.errors import ConfigError, ShapeError
from portrait_jax.nn.encoder import Encoder, Tokens
from portrait_jax.nn.norms import LayerNorm
from portrait_jax.typing import Array, Float

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class CLIPVisionConfig(Tower):
    """Sizes of a vision transformer; the defaults are ViT-L/14 with OpenAI's projection."""

    hidden: int = 1024
    layers: int = 24
    heads: int = 16
    mlp: int = 4096
    patch: int = 14
    image_size: int = 224
    projection: int | None = 768
    """Width of the image embedding; None: neither it nor its layer norm exists."""
    activation: str = "quick_gelu"

    def __post_init__(self) -> None:
        if self.image_size % self.patch:
            raise ConfigError(f"image_size {self.image_size} is no multiple of patch {self.patch}; change one of them")

    @property
    def tokens(self) -> int:
        """Tokens per image, class token included."""
        return (self.image_size // self.patch) ** 2 + 1


def clip_pixels(
    image_pm1: Float[Array, "b h w 3"], size: int = 224, *, whole_levels: bool = False
) -> Float[Array, "b s s 3"]:
    """CLIP's preprocessing: shortest side to `size` (bicubic, antialiased), centre crop, CLIP's mean and std.

    The image is clamped to [−1, 1] before and after resizing, as 8-bit images are. With `whole_levels` it is one, and is resized
    exactly as Pillow does it in transformers' processor.
    """
    height, width = image_pm1.shape[1:3]
    scale = size / min(height, width)
    # As transformers: the longer side is cut down to whole pixels, the crop starts at the floor of half the rest.
    new = (
        size if height <= width else int(height * size / width),
        size if width <= height else int(width * size / height),
    )
    x = jnp.clip(image_pm1.astype(jnp.float32), -1, 1)
    if scale != 1:
        if whole_levels:
            x = bicubic_u8(jnp.round((x + 1) * 127.5).astype(jnp.int32), *new) / 127.5 - 1
        else:
            x = jnp.clip(jax.image.resize(x, (x.shape[0], *new, 3), "cubic", antialias=True), -1, 1)
    top, left = (new[0] - size) // 2, (new[1] - size) // 2
    x = x[:, top : top + size, left : left + size]
    return ((x + 1) / 2 - np.asarray(MEAN, np.float32)) / np.asarray(STD, np.float32)


class Embeddings(nn.Module):
    """Patches through a convolution without bias, a class token before them, learned positions."""

    config: CLIPVisionConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, pixel_values: Float[Array, "b h w 3"]) -> Tokens:
        config = self.config
        step = (config.patch, config.patch)
        patches = nn.Conv(
            config.hidden, step, step, padding="VALID", use_bias=False, dtype=self.dtype, name="patch_embedding"
        )(pixel_values)
        batch = patches.shape[0]
        first = self.param("class_embedding", SMALL, (config.hidden,)).astype(self.dtype)
        first = jnp.broadcast_to(first, (batch, 1, config.hidden))
        x = jnp.concatenate([first, patches.reshape(batch, -1, config.hidden)], axis=1)
        return x + learned_positions(config.tokens, config.hidden).astype(self.dtype)


class VisionModel(nn.Module):
    """Embeddings, layer norm (`pre_layrnorm`, misspelt in every checkpoint), layers; the class token's norm if wanted."""

    config: CLIPVisionConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, pixel_values: Float[Array, "b h w 3"]) -> tuple[tuple[Tokens, ...], Float[Array, "b d"] | None]:
        x = LayerNorm(name="pre_layrnorm")(Embeddings(self.config, self.dtype, name="embeddings")(pixel_values))
        states = Encoder(self.config.stack, self.dtype, name="encoder")(x)
        return states, None if self.config.projection is None else LayerNorm(name="post_layernorm")(states[-1][:, 0])


class CLIPVision(nn.Module):
    """Images to tokens, or to one embedding."""

    config: CLIPVisionConfig = CLIPVisionConfig()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, pixel_values: Float[Array, "b h w 3"], *, embed: bool = False, layer: int = -1
    ) -> Tokens | Float[Array, "b projection"]:
        """Hidden states of all tokens, class token first, without the final norm; or the projected embedding.

        `layer` counts hidden states from the end: −1 is the last layer's, −2 the penultimate one that image prompts read.

        `pixel_values` come from `clip_pixels`, (image_size, image_size) pixels. Raises ShapeError for another size,
        ConfigError for an embedding that the config does not have.
        """
        size = self.config.image_size
        if pixel_values.shape[1:3] != (size, size):
            raise ShapeError(
                f"the image encoder takes {size}×{size} pixels, not {pixel_values.shape[1:3]}; use clip_pixels"
            )
        states, pooled = VisionModel(self.config, self.dtype, name="vision_model")(pixel_values)
        if pooled is None:
            if embed:
                raise ConfigError("this image encoder has no projection; set CLIPVisionConfig.projection")
            return states[layer]
        # Always called, so that initialising gives one parameter tree; unused results cost nothing under jit.
        embedding = nn.Dense(self.config.projection, use_bias=False, dtype=self.dtype, name="visual_projection")(pooled)
        return embedding if embed else states[layer]
