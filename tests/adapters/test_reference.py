"""Withheld reference tokens: how many, which, and that every block has a mask of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.adapters.reference import masked_reference
from portrait_jax.errors import ConfigError

FEATURES = {path: jnp.arange(2 * 20, dtype=jnp.float32).reshape(2, 20, 1) for path in ("a", "b")}


def test_the_kept_tokens_are_different_ones_of_the_same_sample():
    kept = masked_reference(jax.random.key(0), FEATURES, 0.3)
    for tokens in kept.values():
        assert tokens.shape == (2, 14, 1)
        for sample, whole in zip(np.asarray(tokens), np.asarray(FEATURES["a"])):
            assert len(np.unique(sample)) == 14 and set(sample.ravel()) <= set(whole.ravel())
    chosen = [set(np.asarray(tokens[0]).ravel()) for tokens in kept.values()]
    assert chosen[0] != chosen[1]


def test_nothing_is_withheld_at_zero_and_all_cannot_be():
    assert masked_reference(jax.random.key(0), FEATURES, 0.0) == FEATURES
    with pytest.raises(ConfigError, match="below 1, not 1.0"):
        masked_reference(jax.random.key(0), FEATURES, 1.0)
