"""Sequences of motion latents as a few codes, and back: a one-dimensional convolutional autoencoder around a codebook.

The layers are those of T2M-GPT (Zhang et al. 2023, arXiv 2301.06052, section 3.1), which X-NeMo names in its appendix D.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from portrait_jax.errors import ShapeError
from portrait_jax.motion.quantizer import nearest
from portrait_jax.nn.resnet import nearest as repeated
from portrait_jax.typing import Array, Float, Int

Motion = Float[Array, "b f d"]
Vectors = Float[Array, "b n e"]
"""One per code; as wide as a code outside, wider inside the networks."""


@dataclass(frozen=True)
class MotionVQConfig:
    """Sizes; the defaults are X-NeMo's for its 512 motion latents."""

    motion: int = 512
    """Width of a frame's latent."""
    width: int = 512
    """Channels inside."""
    levels: int = 2
    """Halvings of time."""
    dilations: tuple[int, ...] = (9, 3, 1)
    """Of the residual blocks of each level, in the encoder's order."""
    codes: int = 4096
    code_dim: int = 8

    @property
    def factor(self) -> int:
        """Frames per code."""
        return 2**self.levels


def conv(features: int, size: int, dtype: Any, name: str, *, dilation: int = 1) -> nn.Conv:
    """A convolution over time that keeps its length."""
    pad = dilation * (size // 2)
    return nn.Conv(features, (size,), padding=((pad, pad),), kernel_dilation=(dilation,), dtype=dtype, name=name)


class Residuals(nn.Module):
    """Residual blocks: ReLU, dilated convolution, ReLU, pointwise convolution, plus the input."""

    dilations: tuple[int, ...]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Vectors) -> Vectors:
        for i, dilation in enumerate(self.dilations):
            hidden = conv(x.shape[-1], 3, self.dtype, f"conv1_{i}", dilation=dilation)(jax.nn.relu(x))
            x = x + conv(x.shape[-1], 1, self.dtype, f"conv2_{i}")(jax.nn.relu(hidden))
        return x


class Encoder(nn.Module):
    """Motion to one vector per `factor` frames."""

    config: MotionVQConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, motion: Motion) -> Vectors:
        config = self.config
        x = jax.nn.relu(conv(config.width, 3, self.dtype, "conv_in")(motion))
        for i in range(config.levels):
            x = nn.Conv(config.width, (4,), (2,), padding=((1, 1),), dtype=self.dtype, name=f"down_{i}")(x)
            x = Residuals(config.dilations, self.dtype, name=f"residuals_{i}")(x)
        return conv(config.code_dim, 3, self.dtype, "conv_out")(x).astype(jnp.float32)


class Decoder(nn.Module):
    """Codes' vectors to motion."""

    config: MotionVQConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, vectors: Vectors) -> Motion:
        config = self.config
        x = jax.nn.relu(conv(config.width, 3, self.dtype, "conv_in")(vectors))
        for i in range(config.levels):
            x = Residuals(config.dilations[::-1], self.dtype, name=f"residuals_{i}")(x)
            x = conv(config.width, 3, self.dtype, f"up_{i}")(repeated(x, 2 * x.shape[1], axis=1))
        x = jax.nn.relu(conv(config.width, 3, self.dtype, "conv_last")(x))
        return conv(config.motion, 3, self.dtype, "conv_out")(x).astype(jnp.float32)


class MotionVQ(nn.Module):
    """The autoencoder; its leaf `codebook` (codes, code_dim) is learnt like the rest."""

    config: MotionVQConfig = MotionVQConfig()
    dtype: Any = jnp.float32

    def setup(self) -> None:
        shape = (self.config.codes, self.config.code_dim)
        self.encoder = Encoder(self.config, self.dtype)
        self.decoder = Decoder(self.config, self.dtype)
        self.codebook = self.param("codebook", nn.initializers.normal(1.0), shape)

    def __call__(self, motion: Motion) -> Motion:
        """Motion as its codes say it."""
        return self.decode(self.encode(motion))

    def vectors(self, motion: Motion) -> Vectors:
        """What the encoder says, before it is rounded to codes; float32.

        `motion` is standardised. Raises ShapeError for frames that codes do not come out even with.
        """
        if motion.shape[1] % self.config.factor or not motion.shape[1]:
            raise ShapeError(
                f"{motion.shape[1]} frames of motion are no multiple of {self.config.factor}; cut the sequence"
            )
        return self.encoder(motion)

    def encode(self, motion: Motion) -> Int[Array, "b n"]:
        """Codes of standardised motion, one per `factor` frames."""
        return nearest(self.vectors(motion), self.codebook)

    def decode_vectors(self, vectors: Vectors) -> Motion:
        """Standardised motion from the codes' vectors."""
        return self.decoder(vectors)

    def decode(self, codes: Int[Array, "b n"]) -> Motion:
        """Standardised motion from codes, of any number."""
        return self.decoder(self.codebook[codes])
