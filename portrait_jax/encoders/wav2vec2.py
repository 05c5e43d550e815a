"""wav2vec 2.0 (arXiv 2006.11477, transformers `Wav2Vec2Model`): speech to the hidden states of all layers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from portrait_jax.errors import AudioError, ConfigError
from portrait_jax.nn.encoder import SelfAttention
from portrait_jax.nn.feedforward import MLP, gelu
from portrait_jax.nn.norms import GroupNorm, LayerNorm
from portrait_jax.typing import Array, Float

SAMPLE_RATE = 16000
"""Of the sound the network was trained on, in Hz."""

Features = Float[Array, "b n d"]


@dataclass(frozen=True)
class Wav2Vec2Config:
    """Sizes; the defaults are wav2vec2-base-960h's (group norm in the first convolution, norms after the residuals)."""

    conv_channels: tuple[int, ...] = (512,) * 7
    conv_kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    hidden: int = 768
    layers: int = 12
    heads: int = 12
    mlp: int = 3072
    position_kernel: int = 128
    """Width in tokens of the convolution that tells positions."""
    position_groups: int = 16

    def __post_init__(self) -> None:
        if not len(self.conv_channels) == len(self.conv_kernels) == len(self.conv_strides):
            raise ConfigError("conv_channels, conv_kernels and conv_strides differ in length; give one entry per layer")

    def length(self, samples: int) -> int:
        """Feature vectors that the convolutions make of `samples` samples (49 of a second, the published sizes taken)."""
        for kernel, stride in zip(self.conv_kernels, self.conv_strides):
            samples = (samples - kernel) // stride + 1
        return samples

    @property
    def hop(self) -> int:
        """Samples from one vector to the next: 320 in the published sizes."""
        return math.prod(self.conv_strides)

    @property
    def shortest(self) -> int:
        """Samples of the shortest clip that gives one vector: 400 in the published sizes, 25 ms."""
        samples = 1
        for kernel, stride in zip(reversed(self.conv_kernels), reversed(self.conv_strides)):
            samples = (samples - 1) * stride + kernel
        return samples


def normalise_waveform(samples: Float[Array, "b t"]) -> Float[Array, "b t"]:
    """Mean 0 and variance 1 over each whole clip, in float32, as the network was trained: (x − mean) / √(variance + 1e-7)."""
    wide = samples.astype(jnp.float32)
    centred = wide - wide.mean(-1, keepdims=True)
    return centred / jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-7)


def interpolate(features: Features, length: int) -> Float[Array, "b frames d"]:
    """Linear interpolation along time to `length` vectors; the first and the last stay (corners aligned)."""
    last = features.shape[1] - 1
    return sample_at(features, jnp.asarray(np.linspace(0, last, length) if length > 1 else np.zeros(1), jnp.float32))


def sample_at(features: Features, places: Float[Array, " frames"]) -> Float[Array, "b frames d"]:
    """Linear interpolation along time at `places`, counted in vectors from the first; beyond an end that end's vector."""
    last = features.shape[1] - 1
    places = jnp.clip(places, 0, last)
    before = jnp.clip(jnp.floor(places).astype(jnp.int32), 0, max(last - 1, 0))
    after = jnp.minimum(before + 1, last)
    share = (places - before)[None, :, None]
    wide = features.astype(jnp.float32)
    return (wide[:, before] * (1 - share) + wide[:, after] * share).astype(features.dtype)


class ConvLayer(nn.Module):
    """Convolution without bias, group norm of every channel over time if `normalise`, GELU; names conv and layer_norm."""

    channels: int
    kernel: int
    stride: int
    normalise: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b t c"]) -> Float[Array, "b _ _"]:
        x = nn.Conv(
            self.channels, (self.kernel,), (self.stride,), "VALID", use_bias=False, dtype=self.dtype, name="conv"
        )(x)
        return gelu(GroupNorm(self.channels, name="layer_norm")(x) if self.normalise else x)


class FeatureExtractor(nn.Module):
    """Samples to vectors, 320 samples apart in the published sizes."""

    config: Wav2Vec2Config
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, samples: Float[Array, "b t"]) -> Features:
        config, x = self.config, samples[..., None]
        for i, sizes in enumerate(zip(config.conv_channels, config.conv_kernels, config.conv_strides)):
            x = ConvLayer(*sizes, i == 0, self.dtype, name=f"conv_layers_{i}")(x)
        return x


class FeatureProjection(nn.Module):
    """Layer norm and linear to the transformer's width; names layer_norm and projection."""

    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Features) -> Float[Array, "b n width"]:
        return nn.Dense(self.width, dtype=self.dtype, name="projection")(LayerNorm(name="layer_norm")(x))


class PositionalConv(nn.Module):
    """A wide grouped convolution and GELU; its kernel is the product of the published weight norm; name conv."""

    config: Wav2Vec2Config
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Features) -> Features:
        kernel, groups = self.config.position_kernel, self.config.position_groups
        pad = kernel // 2
        hidden = nn.Conv(
            x.shape[-1], (kernel,), padding=((pad, pad),), feature_group_count=groups, dtype=self.dtype, name="conv"
        )(x)
        return gelu(hidden[:, : x.shape[1]])


class SpeechLayer(nn.Module):
    """Transformer layer with norms after the residuals; names attention, layer_norm, feed_forward, final_layer_norm."""

    config: Wav2Vec2Config
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Features) -> Features:
        config = self.config
        x = LayerNorm(name="layer_norm")(x + SelfAttention(config.heads, self.dtype, name="attention")(x))
        names = ("intermediate_dense", "output_dense")
        return LayerNorm(name="final_layer_norm")(
            x + MLP(config.mlp, "gelu", self.dtype, names, name="feed_forward")(x)
        )


class SpeechEncoder(nn.Module):
    """Positions, norm, layers; returns the input of the first layer and the output of each."""

    config: Wav2Vec2Config
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Features) -> Float[Array, "b n layers d"]:
        x = x + PositionalConv(self.config, self.dtype, name="pos_conv_embed")(x)
        states = [LayerNorm(name="layer_norm")(x)]
        for i in range(self.config.layers):
            states.append(SpeechLayer(self.config, self.dtype, name=f"layers_{i}")(states[-1]))
        return jnp.stack(states, axis=2)


class Wav2Vec2(nn.Module):
    """Speech to features per token, or per video frame."""

    config: Wav2Vec2Config = Wav2Vec2Config()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        samples: Float[Array, "b t"],
        frames: int | None = None,
        *,
        places: Float[Array, " n"] | None = None,
    ) -> Float[Array, "b n layers d"]:
        """Hidden states of all layers: entry 0 is the input of the first layer, entry i the output of layer i.

        `samples` come from `normalise_waveform`, mono, 16 kHz; the whole clip at once, since both the norm and attention
        reach over all of it. With `frames` the convolutions' features are interpolated to that many vectors before the
        transformer, which then works at video rate (interpolating its output gives other features); with `places` they are
        interpolated there, counted in vectors from the first (`encoders.speech` says where a video's frames are).
        Raises AudioError if the clip is too short for one vector.
        """
        if samples.shape[1] < self.config.shortest:
            raise AudioError(f"{samples.shape[1]} samples are too few for speech features; give {self.config.shortest}")
        x = FeatureExtractor(self.config, self.dtype, name="feature_extractor")(samples)
        if frames is not None:
            x = interpolate(x, frames)
        if places is not None:
            x = sample_at(x, places)
        x = FeatureProjection(self.config.hidden, self.dtype, name="feature_projection")(x)
        return SpeechEncoder(self.config, self.dtype, name="encoder")(x)
