"""Hiding part of a portrait while a network trains, so that it cannot copy the portrait's expression."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from portrait_jax.errors import ConfigError
from portrait_jax.typing import Array, Float, PRNGKeyArray


def mask_reference(
    rng: PRNGKeyArray, reference: Mapping[str, Float[Array, "b _ d"]], share: float
) -> dict[str, Float[Array, "b _ d"]]:
    """Drops a random `share` of the reference tokens of every block: int(n · (1 − share)) of n stay, in random order.

    Each item and each block loses tokens of its own. What is left out is not in the attention at all, as opposed to a
    zero token. Order does not matter to attention, which knows no positions.

    Args:
        rng: decides which; a block's draw depends on its path and not on the other blocks.
        reference: block path → tokens, as `Conditioning.reference`.
        share: 0 (the tokens as they are) … below 1. X-NeMo (arXiv 2507.23143, section 3.3 and appendix B) takes 0.3;
            20 to 50 % work, without masking expressions are copied, and from 75 % on identity leaks into motion.

    Raises:
        ConfigError: for a share out of range, or one that leaves a block without tokens.
    """
    if not 0 <= share < 1:
        raise ConfigError(f"the share of masked reference tokens is {share}; give one from 0 up to, not including, 1")
    if not share:
        return dict(reference)
    return {
        path: _kept(jax.random.fold_in(rng, zlib.crc32(path.encode())), path, x, share) for path, x in reference.items()
    }


def _kept(rng: PRNGKeyArray, path: str, tokens: Float[Array, "b _ d"], share: float) -> Float[Array, "b _ d"]:
    items, length = tokens.shape[:2]
    count = int(length * (1 - share))
    if not count:
        raise ConfigError(f"masking {share} of the {length} reference tokens of {path} leaves none; lower the share")
    order = jnp.argsort(jax.random.uniform(rng, (items, length)), axis=1)[:, :count]
    return jnp.take_along_axis(tokens, order[..., None], axis=1)
