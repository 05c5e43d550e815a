"""Speech features to tokens of latent frames.

The network is Hallo3's (arXiv 2412.00733, section 3.2; `sgm/models/transformer.py::AudioProjModel`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from portrait_jax.errors import ConfigError, nearest
from portrait_jax.nn.feedforward import activation
from portrait_jax.nn.norms import LayerNorm
from portrait_jax.typing import Array, Float

WAYS_TO_JOIN = ("convolution", "mean")


@dataclass(frozen=True)
class AudioProjectionConfig:
    """Sizes; the defaults are Hallo3's."""

    hidden: int = 512
    tokens: int = 32
    """Per latent frame."""
    width: int = 768
    """Of a token."""
    halvings: int = 2
    """How often neighbouring frames are joined: the autoencoder's halvings of time."""
    joined: str = "convolution"
    """How two frames become one: by a convolution (the release), or as their "mean". The paper has three linear layers and nothing
    else, and does not say how frames become latent frames."""

    def __post_init__(self) -> None:
        if self.halvings < 0:
            raise ConfigError(f"halvings must be 0 or more, not {self.halvings}")
        if self.joined not in WAYS_TO_JOIN:
            raise ConfigError(f"frames are not joined by '{self.joined}'{nearest(self.joined, WAYS_TO_JOIN)}")


class AudioProjection(nn.Module):
    """Windows of speech features of every video frame to tokens of every latent frame; names proj1…3, conv1, norm.

    Three linear layers, then one convolution over pairs of frames (or their mean), used for each halving: of an odd number of
    frames the first goes by it, as the autoencoder's first frame stands for itself.
    """

    config: AudioProjectionConfig = AudioProjectionConfig()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, windows: Float[Array, "b f win layers d"]) -> Float[Array, "b lf k e"]:
        """`windows`: for each frame the features of all layers in the frames around it."""
        config, relu = self.config, activation("relu")
        x = windows.reshape(*windows.shape[:2], -1)
        for name, width in (("proj1", config.hidden), ("proj2", config.hidden)):
            x = relu(nn.Dense(width, dtype=self.dtype, name=name)(x))
        x = nn.Dense(config.tokens * config.width, dtype=self.dtype, name="proj3")(x)
        pair = mean_of_pairs
        if config.joined == "convolution":
            pair = nn.Conv(x.shape[-1], (2,), (2,), "VALID", dtype=self.dtype, name="conv1")
        for _ in range(config.halvings):
            own = x.shape[1] % 2
            # Visits the layer for one frame too: its parameters must not depend on how long the first clip is.
            if x.shape[1] > 1 or self.is_initializing():
                rest = x[:, own:] if x.shape[1] > 1 else jnp.repeat(x, 2, axis=1)
                x = jnp.concatenate([x[:, :own], pair(rest)], axis=1)[:, : (x.shape[1] + 1) // 2]
        return LayerNorm(name="norm")(x.reshape(*x.shape[:2], config.tokens, config.width))


def mean_of_pairs(x: Float[Array, "b f d"]) -> Float[Array, "b _ d"]:
    """Of an even number of frames the mean of every two."""
    return x.reshape(x.shape[0], -1, 2, x.shape[-1]).mean(2)
