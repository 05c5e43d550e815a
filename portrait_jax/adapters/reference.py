"""Reference features between the net that writes them and the one that reads them: what is withheld in training."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from portrait_jax.errors import ConfigError
from portrait_jax.typing import Array, Float, PRNGKeyArray

Features = Mapping[str, Float[Array, "b n d"]]


def masked_reference(rng: PRNGKeyArray, features: Features, ratio: float) -> dict[str, Float[Array, "b n d"]]:
    """Keeps int(n · (1 − ratio)) random tokens of each block and sample, in random order.

    Without every part of the portrait at hand, a network cannot copy its expression (X-NeMo, arXiv 2507.23143,
    section 3.3, where 0.3 is withheld).

    Raises:
        ConfigError: unless 0 ≤ ratio < 1.
    """
    if not 0 <= ratio < 1:
        raise ConfigError(f"the share of reference tokens to withhold must lie in 0..1 and below 1, not {ratio}")
    if ratio == 0:
        return dict(features)
    kept = {}
    for key, (path, tokens) in zip(jax.random.split(rng, len(features)), sorted(features.items())):
        count = int(tokens.shape[1] * (1 - ratio))
        order = jnp.argsort(jax.random.uniform(key, tokens.shape[:2]))[:, :count]
        kept[path] = jnp.take_along_axis(tokens, order[..., None], axis=1)
    return kept
