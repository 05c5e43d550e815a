"""Guidance as a pure function of named predictions: which branches to run, and how to combine what they say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jax.numpy as jnp

from portrait_jax.errors import ConfigError
from portrait_jax.typing import Array, Float

Scale = float | Float[Array, " f"]
"""One strength, or one per frame."""


@dataclass(frozen=True, eq=False)
class Guidance:
    """Branches of conditioning and the rule that combines their predictions.

    Attributes:
        branches: names that must exist among the conditionings, each run once per step.
        combine: {branch: prediction `b f h w c`} → prediction `b f h w c`.
    """

    branches: tuple[str, ...]
    combine: Callable[[Mapping[str, Array]], Array]


def identity(branch: str = "cond") -> Guidance:
    """No guidance: one branch, taken as it is."""
    return Guidance((branch,), lambda predictions: predictions[branch])


def nested(branches: Sequence[str], scales: Sequence[Scale]) -> Guidance:
    """p₀ + Σ s_i (p_i − p_{i−1}): each branch adds one condition to the one before, with its own strength.

    Two branches are classifier-free guidance (arXiv 2207.12598, eq. 6), three the form of InstructPix2Pix
    (arXiv 2211.09800, eq. 3).

    Args:
        branches: from the least to the most conditioned.
        scales: one for each branch but the first; a scale per frame (f,) applies along axis 1 of `b f h w c`.

    Raises:
        ConfigError: if the numbers of branches and scales do not match.
    """
    if len(branches) != len(scales) + 1:
        raise ConfigError(f"{len(branches)} guidance branches need {len(branches) - 1} scales, not {len(scales)}")
    strengths = tuple(_per_frame(scale) for scale in scales)

    def combine(predictions: Mapping[str, Array]) -> Array:
        ordered = [predictions[name] for name in branches]
        steps = zip(strengths, ordered[:-1], ordered[1:], strict=True)
        return ordered[0] + sum(scale * (more - less) for scale, less, more in steps)

    return Guidance(tuple(branches), combine)


def classifier_free(scale: Scale) -> Guidance:
    """uncond + scale · (cond − uncond) (arXiv 2207.12598, eq. 6); at scale exactly 1 only "cond" runs."""
    if jnp.ndim(scale) == 0 and float(scale) == 1.0:
        return identity()
    return nested(("uncond", "cond"), (scale,))


def rescaled(guidance: Guidance, strength: float, branch: str = "cond") -> Guidance:
    """Pulls the combined prediction's standard deviation towards that of `branch` (arXiv 2305.08891, eqs. 15 and 16).

    Strong guidance over-exposes models trained with zero terminal SNR; strength 0 changes nothing, 0.7 is usual.
    """

    def combine(predictions: Mapping[str, Array]) -> Array:
        combined = guidance.combine(predictions)
        axes = tuple(range(1, combined.ndim))
        ratio = predictions[branch].std(axes, keepdims=True) / jnp.maximum(combined.std(axes, keepdims=True), 1e-8)
        return combined * (strength * ratio + (1 - strength))

    return Guidance(guidance.branches, combine)


def _per_frame(scale: Scale):
    return scale if jnp.ndim(scale) == 0 else jnp.asarray(scale)[:, None, None, None]
