"""Protects: key expressions are reached exactly, and between them motion is linear."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.errors import ShapeError
from portrait_jax.motion.interpolation import interpolate, key_positions

KEYS = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)), jnp.float32)


def test_keys_are_reached_and_the_way_between_them_is_straight():
    found = jax.jit(interpolate)(KEYS, jnp.array([0.0, 0.25, 1.0, 1.5, 2.0]))
    np.testing.assert_allclose(found[0::2], KEYS, rtol=1e-6)
    np.testing.assert_allclose(found[1], 0.75 * KEYS[0] + 0.25 * KEYS[1], rtol=1e-5)
    np.testing.assert_allclose(found[3], (KEYS[1] + KEYS[2]) / 2, rtol=1e-5)


def test_the_ends_hold_and_one_key_is_enough():
    np.testing.assert_allclose(interpolate(KEYS, jnp.array([-3.0, 9.0])), KEYS[jnp.array([0, 2])], rtol=1e-6)
    np.testing.assert_allclose(interpolate(KEYS[:1], jnp.array([0.0, 0.7])), jnp.stack([KEYS[0]] * 2))
    with pytest.raises(ShapeError, match="no key expression"):
        interpolate(KEYS[:0], jnp.zeros(2))


def test_positions_run_from_the_first_key_to_the_last_and_rest_where_asked():
    even, eased = np.asarray(key_positions(3, 9)), np.asarray(key_positions(3, 9, ease=True))
    np.testing.assert_allclose(even, np.linspace(0, 2, 9), rtol=1e-6)
    np.testing.assert_allclose(eased[[0, 2, 4, 6, 8]], [0, 0.5, 1, 1.5, 2], rtol=1e-6)
    speed = np.diff(np.asarray(key_positions(3, 201, ease=True)))
    assert speed[0] < 0.05 * speed.max() and speed[100] < 0.05 * speed.max() and speed.min() >= 0
    assert key_positions(1, 3).tolist() == [0, 0, 0]
