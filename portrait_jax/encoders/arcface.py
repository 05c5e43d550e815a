"""ArcFace's face recogniser (arXiv 1801.07698, insightface's iResNet) in inference: an aligned face to its identity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from portrait_jax.errors import ShapeError
from portrait_jax.nn.conv import conv3x3
from portrait_jax.nn.norms import BatchNorm
from portrait_jax.typing import Array, Float

Features = Float[Array, "_ _ _ _"]


@dataclass(frozen=True)
class ArcFaceConfig:
    """Sizes of an iResNet; the defaults are iResNet-50's, and `layers=(3, 13, 30, 3)` is iResNet-100."""

    layers: tuple[int, ...] = (3, 4, 14, 3)
    """Blocks per stage; each stage halves space."""
    channels: tuple[int, ...] = (64, 128, 256, 512)
    embedding: int = 512
    image_size: int = 112


class PReLU(nn.Module):
    """Negative values times a learned slope per channel, named scale."""

    @nn.compact
    def __call__(self, x: Features) -> Features:
        slope = self.param("scale", nn.initializers.constant(0.25), (x.shape[-1],))
        return jnp.where(x >= 0, x, x * slope.astype(x.dtype))


class Block(nn.Module):
    """Norm, convolution, norm, PReLU, convolution, norm, plus the input (through `downsample_0`, `downsample_1` if given)."""

    channels: int
    stride: int
    shortcut: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Features) -> Features:
        hidden = BatchNorm(name="bn1")(x)
        hidden = conv3x3(self.channels, bias=False, dtype=self.dtype, name="conv1")(hidden)
        hidden = PReLU(name="prelu")(BatchNorm(name="bn2")(hidden))
        hidden = conv3x3(self.channels, stride=self.stride, bias=False, dtype=self.dtype, name="conv2")(hidden)
        hidden = BatchNorm(name="bn3")(hidden)
        if self.shortcut:
            step = (self.stride, self.stride)
            x = nn.Conv(
                self.channels, (1, 1), step, padding="VALID", use_bias=False, dtype=self.dtype, name="downsample_0"
            )(x)
            x = BatchNorm(name="downsample_1")(x)
        return x + hidden


class ArcFace(nn.Module):
    """Aligned faces to identity embeddings."""

    config: ArcFaceConfig = ArcFaceConfig()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, face_pm1: Float[Array, "b h w 3"], *, unit: bool = True) -> Float[Array, "b e"]:
        """Embeddings of unit length (`unit=False`: as the last layer gives them), float32.

        `face_pm1`: RGB in [−1, 1], image_size pixels square, aligned by five points to the recogniser's template.
        Raises ShapeError for another size.
        """
        config, size = self.config, self.config.image_size
        if face_pm1.shape[1:3] != (size, size):
            raise ShapeError(
                f"the face recogniser takes {size}×{size} pixels, not {face_pm1.shape[1:3]}; align the face"
            )
        x = conv3x3(config.channels[0], bias=False, dtype=self.dtype, name="conv1")(face_pm1)
        x = PReLU(name="prelu")(BatchNorm(name="bn1")(x))
        for i, (channels, layers) in enumerate(zip(config.channels, config.layers), 1):
            for j in range(layers):
                x = Block(channels, 2 if j == 0 else 1, j == 0, self.dtype, name=f"layer{i}_{j}")(x)
        x = BatchNorm(name="bn2")(x)
        # The linear layer's kernel counts its inputs channel by channel, as PyTorch flattens.
        x = jnp.moveaxis(x, -1, 1).reshape(len(x), -1)
        x = nn.Dense(config.embedding, dtype=self.dtype, name="fc")(x)
        x = BatchNorm(name="features")(x).astype(jnp.float32)
        return x / jnp.linalg.norm(x, axis=-1, keepdims=True) if unit else x
