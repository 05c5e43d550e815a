"""LPIPS (arXiv 1801.03924), version 0.1 with AlexNet: how different two pictures look to a network trained on photographs.

The weights are published: torchvision's AlexNet, and five linear layers that people's judgements were fitted with. Import both
at once by `launch.convert import --layout lpips_alex`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from portrait_jax.errors import CheckpointError, ShapeError
from portrait_jax.training.checkpoints import compare
from portrait_jax.training.params import load_params
from portrait_jax.typing import Array, Float, Params, UInt8, Video

SUBNET = "perceptual"
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Pixels in [−1, 1] → (pixel − SHIFT) / SCALE."""
LEAST_SIDE = 64


class Layer(NamedTuple):
    """A convolution of AlexNet, its number in torchvision's `features`, and whether 3×3 maxima at stride 2 come before it."""

    number: int
    channels: int
    kernel: int
    stride: int
    padding: int
    pooled: bool


LAYERS = (
    Layer(0, 64, 11, 4, 2, False),
    Layer(3, 192, 5, 1, 2, True),
    Layer(6, 384, 3, 1, 1, True),
    Layer(8, 256, 3, 1, 1, False),
    Layer(10, 256, 3, 1, 1, False),
)


class Lpips(nn.Module):
    """Distances of pictures; names features_0 … features_10 (AlexNet), lin0 … lin4."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, first_pm1: Float[Array, "b h w 3"], second_pm1: Float[Array, "b h w 3"]) -> Float[Array, " b"]:
        """0 for equal pictures; RGB in [−1, 1], at least 64 pixels a side.

        After each ReLU both pictures' features are brought to unit length along channels; their squared differences, weighed
        by channel, are averaged over the picture and summed over the five layers.
        """
        x = (jnp.concatenate([first_pm1, second_pm1]) - jnp.array(SHIFT)) / jnp.array(SCALE)
        total = jnp.zeros(len(first_pm1))
        for i, layer in enumerate(LAYERS):
            if layer.pooled:
                x = nn.max_pool(x, (3, 3), (2, 2))
            size, step, edge = (layer.kernel,) * 2, (layer.stride,) * 2, [(layer.padding,) * 2] * 2
            name = f"features_{layer.number}"
            x = jax.nn.relu(nn.Conv(layer.channels, size, step, edge, dtype=self.dtype, name=name)(x))
            length = jnp.sqrt((x.astype(jnp.float32) ** 2).sum(axis=-1, keepdims=True))
            one, other = jnp.split(x / (length + 1e-10), 2)
            weighed = nn.Dense(1, use_bias=False, name=f"lin{i}")((one - other) ** 2)
            total = total + weighed.mean(axis=(1, 2, 3))
        return total


class PerceptualDistance:
    """LPIPS with its weights."""

    def __init__(self, params: Params) -> None:
        self._params = jax.device_put(params)
        self._apply = jax.jit(lambda params, a, b: Lpips().apply({"params": params}, a / 127.5 - 1, b / 127.5 - 1))

    @classmethod
    def load(cls, path: str | Path) -> PerceptualDistance:
        """Reads what `launch.convert import --layout lpips_alex` wrote.

        Raises:
            CheckpointError: if there is nothing to read, or it holds other parameters.
        """
        params, _ = load_params(path)
        if SUBNET not in params:
            raise CheckpointError(
                f"{path} has no sub-network '{SUBNET}'; make it by launch.convert import --layout lpips_alex"
            )
        compare(params[SUBNET], jax.eval_shape(fresh), str(path))
        return cls(params[SUBNET])

    def __call__(self, result: UInt8[np.ndarray, "..."], truth: Video) -> float:
        """Mean distance of the frames, one pair in memory at a time.

        Raises:
            ShapeError: for other shapes, or pictures below 64 pixels.
        """
        if result.shape != truth.shape or min(truth.shape[1:3]) < LEAST_SIDE:
            raise ShapeError(
                f"LPIPS compares pictures of one size from {LEAST_SIDE} pixels on, not {result.shape} and {truth.shape}"
            )
        pairs = (
            (np.asarray(a, np.float32)[None], np.asarray(b, np.float32)[None])
            for a, b in zip(result, truth, strict=True)
        )
        return float(np.mean([self._apply(self._params, a, b) for a, b in pairs]))


def fresh() -> Params:
    """Untrained parameters of the network."""
    picture = jnp.zeros((1, LEAST_SIDE, LEAST_SIDE, 3))
    return Lpips().init(jax.random.key(0), picture, picture)["params"]
