"""What a network predicts, and the one table that turns it into (x0, ε), so that no solver or loss branches on it.

Everywhere x = α x0 + σ ε with α² + σ² = 1, α = √ᾱ_t.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

import jax.numpy as jnp

from portrait_jax.errors import ConfigError, nearest
from portrait_jax.typing import Array, Float

PredictionType = Literal["epsilon", "v", "x0"]
"""epsilon: the noise; v: α ε − σ x0 (arXiv 2202.00512, section 4); x0: the clean latents."""

_TINY = 1e-6
"""Divisors are kept this far from 0; they vanish only where the prediction holds no information about the quotient."""


class _Rules(NamedTuple):
    to_x0: Callable[..., Array]
    """(x, output, α, σ) → x0."""
    to_epsilon: Callable[..., Array]
    """(x, output, α, σ) → ε."""
    target: Callable[..., Array]
    """(x0, ε, α, σ) → what the network should have said."""


_TABLE: Mapping[str, _Rules] = MappingProxyType(
    {
        "epsilon": _Rules(
            to_x0=lambda x, out, alpha, sigma: (x - sigma * out) / jnp.maximum(alpha, _TINY),
            to_epsilon=lambda x, out, alpha, sigma: out,
            target=lambda x0, epsilon, alpha, sigma: epsilon,
        ),
        "v": _Rules(
            to_x0=lambda x, out, alpha, sigma: alpha * x - sigma * out,
            to_epsilon=lambda x, out, alpha, sigma: alpha * out + sigma * x,
            target=lambda x0, epsilon, alpha, sigma: alpha * epsilon - sigma * x0,
        ),
        "x0": _Rules(
            to_x0=lambda x, out, alpha, sigma: out,
            to_epsilon=lambda x, out, alpha, sigma: (x - alpha * out) / jnp.maximum(sigma, _TINY),
            target=lambda x0, epsilon, alpha, sigma: x0,
        ),
    }
)


def _rules(prediction: str) -> _Rules:
    if prediction not in _TABLE:
        raise ConfigError(f"unknown prediction type '{prediction}'{nearest(prediction, list(_TABLE))}")
    return _TABLE[prediction]


def check_prediction(prediction: str) -> None:
    """Raises ConfigError, naming the nearest, for anything but a `PredictionType`."""
    _rules(prediction)


def to_x0_epsilon(
    prediction: str, x: Float[Array, "*shape"], output: Float[Array, "*shape"], alpha: Array, sigma: Array
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """Reads the clean latents and the noise out of a network's output.

    Args:
        prediction: a `PredictionType`.
        x: noisy latents α x0 + σ ε.
        output: the network's prediction.
        alpha, sigma: √ᾱ_t and √(1 − ᾱ_t), scalars or broadcastable to `x`.

    Returns:
        (x0, ε). With "epsilon" at α = 0 the first is finite but meaningless: such a prediction says nothing about x0.

    Raises:
        ConfigError: for an unknown prediction type.
    """
    rules = _rules(prediction)
    return rules.to_x0(x, output, alpha, sigma), rules.to_epsilon(x, output, alpha, sigma)


def training_target(
    prediction: str, x0: Float[Array, "*shape"], epsilon: Float[Array, "*shape"], alpha: Array, sigma: Array
) -> Float[Array, "*shape"]:
    """What a network of this prediction type should output; arguments as in `to_x0_epsilon`."""
    return _rules(prediction).target(x0, epsilon, alpha, sigma)
