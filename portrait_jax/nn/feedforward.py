"""Feed-forward layers of transformer blocks and the activations they use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from portrait_jax.errors import ConfigError, nearest
from portrait_jax.typing import Array, Float


def quick_gelu(x: Array) -> Array:
    """x · sigmoid(1.702 x), the approximation that CLIP ViT-L was trained with."""
    return x * jax.nn.sigmoid(1.702 * x)


def gelu(x: Array) -> Array:
    """The exact GELU, through the error function."""
    return jax.nn.gelu(x, approximate=False)


def gelu_tanh(x: Array) -> Array:
    """The tanh approximation of GELU."""
    return jax.nn.gelu(x, approximate=True)


def squared_relu(x: Array) -> Array:
    """max(x, 0)² (Primer, arXiv 2109.08668)."""
    return jnp.square(jax.nn.relu(x))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "squared_relu": squared_relu,
}


def activation(name: str) -> Callable[[Array], Array]:
    """Looks an activation up by name; raises ConfigError with the nearest name."""
    if name not in ACTIVATIONS:
        raise ConfigError(f"activation '{name}' does not exist{nearest(name, tuple(ACTIVATIONS))}")
    return ACTIVATIONS[name]


class GEGLU(nn.Module):
    """value · gelu(gate): one projection holds both, the value first."""

    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch width"]:
        value, gate = jnp.split(nn.Dense(2 * self.width, dtype=self.dtype, name="proj")(x), 2, axis=-1)
        return value * gelu(gate)


class Activated(nn.Module):
    """activation(proj x)."""

    width: int
    activation: str
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch width"]:
        return activation(self.activation)(nn.Dense(self.width, dtype=self.dtype, name="proj")(x))


class FeedForward(nn.Module):
    """GEGLU, or a named activation, to `mult` times the width and back; names net_0/proj and net_2."""

    mult: int = 4
    dtype: Any = jnp.float32
    activation: str = "geglu"

    @nn.compact
    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        width = self.mult * x.shape[-1]
        if self.activation == "geglu":
            hidden = GEGLU(width, dtype=self.dtype, name="net_0")(x)
        else:
            hidden = Activated(width, self.activation, self.dtype, name="net_0")(x)
        return nn.Dense(x.shape[-1], dtype=self.dtype, name="net_2")(hidden)


class MLP(nn.Module):
    """Two linear layers around one activation; names fc1 and fc2, or others."""

    width: int
    activation: str = "gelu"
    dtype: Any = jnp.float32
    names: tuple[str, str] = ("fc1", "fc2")

    @nn.compact
    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        first, second = self.names
        hidden = activation(self.activation)(nn.Dense(self.width, dtype=self.dtype, name=first)(x))
        return nn.Dense(x.shape[-1], dtype=self.dtype, name=second)(hidden)


class GatedMLP(nn.Module):
    """activation(gate) · value and back, without biases; names wi_0 (gate), wi_1 (value) and wo, as in T5 v1.1."""

    width: int
    activation: str = "gelu_tanh"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        def project(width: int, name: str, x: Array) -> Array:
            return nn.Dense(width, use_bias=False, dtype=self.dtype, name=name)(x)

        hidden = activation(self.activation)(project(self.width, "wi_0", x)) * project(self.width, "wi_1", x)
        return project(x.shape[-1], "wo", hidden)
