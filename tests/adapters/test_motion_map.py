"""Protects motion as a feature map: it starts at nothing, each frame is its own, and its size is the latents'."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.adapters.motion_map import MotionMap, MotionMapConfig
from portrait_jax.errors import ConfigError


def test_frames_make_their_own_maps_and_a_fresh_one_is_zero():
    module = MotionMap(MotionMapConfig(size=8, channels=4, out_channels=6))
    tokens = jax.random.normal(jax.random.key(0), (1, 3, 2, 5))
    made, variables = jax.jit(module.init_with_output)(jax.random.key(1), tokens)
    assert made.shape == (1, 3, 8, 8, 6) and not np.any(made)
    drawn = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(2), leaf.shape) / 4, variables)
    run = jax.jit(module.apply)
    first = run(drawn, tokens)
    changed = run(drawn, tokens.at[:, 1].add(1.0))
    assert np.abs(changed[:, 1] - first[:, 1]).max() > 1e-3
    np.testing.assert_array_equal(changed[:, jnp.array([0, 2])], first[:, jnp.array([0, 2])])


@pytest.mark.parametrize("size", [2, 12])
def test_a_size_that_is_no_power_of_two_is_refused(size):
    with pytest.raises(ConfigError, match="power of two"):
        MotionMapConfig(size=size)
