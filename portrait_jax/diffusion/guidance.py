"""Guidance as a pure function of named predictions: which branches to run, and how to combine what they say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np

from portrait_jax.errors import ConfigError, nearest
from portrait_jax.typing import Array, Bool, Float

Scale = float | Float[Array, " f"]
"""One strength, or one per frame."""

RANGES = {"clip": (1, 2, 3), "frame": (2, 3), "whole": (1, 2, 3, 4)}
"""What a range is taken over: each channel of a clip, each channel of a frame, or all of a clip."""
TINY = 1e-12


@dataclass(frozen=True, eq=False)
class Guidance:
    """Branches of conditioning and the rule that combines their predictions.

    Attributes:
        branches: names that must exist among the conditionings, each run once per step.
        combine: {branch: prediction `b f h w c`} → prediction `b f h w c`. With `reads_given` it is told a second thing: 1 for
            frames whose clean latents are given, "b f", or None.
        reads_given: whether it is.
        interval: shares of the solver's steps, first and last, between which all branches run; outside the last branch alone
            does, at its cost (arXiv 2404.07724: guidance helps at middle levels of noise).
    """

    branches: tuple[str, ...]
    combine: Callable[..., Array]
    reads_given: bool = False
    interval: tuple[float, float] = (0.0, 1.0)

    def active(self, steps: int) -> Bool[np.ndarray, " steps"] | None:
        """At which steps all branches run; None: at all of them."""
        first, last = (round(share * steps) for share in self.interval)
        at = np.arange(steps)
        found = (at >= first) & (at < last)
        return None if found.all() or len(self.branches) == 1 else found


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


def mimicking(
    scale: float,
    mimic: float,
    percentile: float = 0.995,
    axes: str = "clip",
    variability: str = "max",
    strength: float = 1.0,
) -> Guidance:
    """Classifier-free guidance as strong as `scale`, in the range that the weaker `mimic` would have (dynamic thresholding).

    Both guided predictions are centred over space. The strong one is cut off at its own percentile s, or at the weak one's
    greatest value if that is more, and rescaled from s to that value; its mean is added again. It acts on the network's
    output: the operator is homogeneous, so an ε-prediction may be scaled by σ or not.
    Source: mcmonkeyprojects/sd-dynamic-thresholding; the percentile is that of arXiv 2205.11487, section 2.3.

    Args:
        scale, mimic: of the "cond" over the "uncond" branch; equal scales are plain guidance.
        percentile: 0 … 1; 1 cuts off nothing.
        axes: what greatest value and percentile are taken over, a name of `RANGES`.
        variability: "max", as above, or "std": the strong one is brought to the weak one's standard deviation.
        strength: 0 … 1, share of the result in what is returned; the rest is plain guidance.

    Raises:
        ConfigError: for an unknown name, or a percentile outside 0 … 1.
    """
    if axes not in RANGES:
        raise ConfigError(f"thresholding over '{axes}' does not exist{nearest(axes, list(RANGES))}")
    if variability not in ("max", "std"):
        raise ConfigError(f"variability '{variability}' does not exist{nearest(variability, ['max', 'std'])}")
    if not 0 <= percentile <= 1:
        raise ConfigError(f"a percentile lies in 0..1, not at {percentile}")
    if scale == mimic:
        return classifier_free(scale)
    over = RANGES[axes]

    def combine(predictions: Mapping[str, Array], given: Array | None = None) -> Array:
        cond, uncond = (predictions[name].astype(jnp.float32) for name in ("cond", "uncond"))
        strong, weak = (uncond + by * (cond - uncond) for by in (scale, mimic))
        mean = strong.mean((2, 3), keepdims=True)
        centred, other = strong - mean, weak - weak.mean((2, 3), keepdims=True)
        free = jnp.ones((1, 1, 1, 1, 1), bool) if given is None else (given == 0)[:, :, None, None, None]

        def among(reduce: Callable[..., Array], x: Array) -> Array:
            return reduce(jnp.where(free, x, jnp.nan), axis=over, keepdims=True)

        if variability == "std":
            thresholded = centred * (among(jnp.nanstd, other) / jnp.maximum(among(jnp.nanstd, centred), TINY)) + mean
        else:
            own = among(lambda x, **k: jnp.nanquantile(x, percentile, **k), jnp.abs(centred))
            target = among(jnp.nanmax, jnp.abs(other))
            limit = jnp.maximum(own, target)
            thresholded = jnp.clip(centred, -limit, limit) * (target / jnp.maximum(limit, TINY)) + mean
        result = strength * thresholded + (1 - strength) * strong
        # What is given is not in the statistics, and where all of a range is given there are none.
        return jnp.where(free, result, strong).astype(predictions["cond"].dtype)

    return Guidance(("uncond", "cond"), combine, reads_given=True)


def rescaled(guidance: Guidance, strength: float, branch: str = "cond") -> Guidance:
    """Pulls the combined prediction's standard deviation towards that of `branch` (arXiv 2305.08891, eqs. 15 and 16).

    Strong guidance over-exposes models trained with zero terminal SNR; strength 0 changes nothing, 0.7 is usual.
    """

    def combine(predictions: Mapping[str, Array], *given: Array | None) -> Array:
        combined = guidance.combine(predictions, *given)
        axes = tuple(range(1, combined.ndim))
        ratio = predictions[branch].std(axes, keepdims=True) / jnp.maximum(combined.std(axes, keepdims=True), 1e-8)
        return combined * (strength * ratio + (1 - strength))

    return replace(guidance, combine=combine)


def _per_frame(scale: Scale):
    return scale if jnp.ndim(scale) == 0 else jnp.asarray(scale)[:, None, None, None]
