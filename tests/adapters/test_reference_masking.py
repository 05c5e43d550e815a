"""Protects: how many reference tokens stay, that they are whole and unrepeated, and that draws are independent."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.adapters.reference_masking import mask_reference
from portrait_jax.errors import ConfigError

# Token n of item b is (b, n, …): it says where it came from.
TOKENS = jnp.stack(jnp.meshgrid(jnp.arange(3.0), jnp.arange(40.0), indexing="ij"), axis=-1)
REFERENCE = {"down/0": TOKENS, "down/1": TOKENS, "mid": TOKENS[:, :10]}


def places(masked, path):
    return [list(map(int, row)) for row in np.asarray(masked[path][..., 1])]


def test_the_share_is_dropped_and_the_rest_are_different_tokens_of_the_same_item():
    masked = jax.jit(mask_reference, static_argnums=2)(jax.random.key(0), REFERENCE, 0.3)
    assert {path: x.shape for path, x in masked.items()} == {
        "down/0": (3, 28, 2),
        "down/1": (3, 28, 2),
        "mid": (3, 7, 2),
    }
    for path, x in masked.items():
        np.testing.assert_array_equal(x[..., 0], np.arange(3.0)[:, None] * np.ones(x.shape[1]))
        assert all(len(set(row)) == len(row) for row in places(masked, path))


def test_items_blocks_and_keys_lose_tokens_of_their_own():
    masked = mask_reference(jax.random.key(0), REFERENCE, 0.3)
    kept = [set(row) for path in ("down/0", "down/1") for row in places(masked, path)]
    assert len(set(map(frozenset, kept))) == 6
    assert places(mask_reference(jax.random.key(1), REFERENCE, 0.3), "mid") != places(masked, "mid")
    alone = mask_reference(jax.random.key(0), {"mid": REFERENCE["mid"]}, 0.3)
    assert places(alone, "mid") == places(masked, "mid"), "a block's draw does not depend on the others"


def test_every_token_is_dropped_equally_often():
    kept = np.concatenate([places(mask_reference(jax.random.key(i), {"mid": TOKENS}, 0.3), "mid") for i in range(60)])
    counts = np.bincount(kept.ravel(), minlength=40) / len(kept)
    assert np.abs(counts - 0.7).max() < 0.13  # 180 draws: four standard deviations


def test_no_share_keeps_everything_in_place():
    masked = mask_reference(jax.random.key(0), REFERENCE, 0.0)
    assert all(masked[path] is REFERENCE[path] for path in REFERENCE)


@pytest.mark.parametrize(("share", "message"), [(1.0, "is 1.0"), (-0.1, "is -0.1"), (0.95, "of mid leaves none")])
def test_a_share_that_leaves_nothing_is_a_config_error(share, message):
    with pytest.raises(ConfigError, match=message):
        mask_reference(jax.random.key(0), REFERENCE, share)
