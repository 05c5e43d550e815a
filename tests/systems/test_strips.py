"""Protects: the pictures that a training run draws of itself."""

from __future__ import annotations

import jax
import numpy as np

from portrait_jax.systems.strips import _draw
from tests import tiny


def test_a_strip_shows_portrait_truth_control_and_samples_and_compiles_once():
    system = tiny.make_system("demo_stage2")
    params, batch = tiny.make_params(system), tiny.make_batch(clips=5, frames=2)
    strip = system.samples(params, batch, jax.random.key(0), "demo_stage2")["clips"]
    assert strip.dtype == np.uint8 and strip.shape == (4 * 3 * 32, 3 * 32, 3)
    np.testing.assert_array_equal(strip[:32, :32], batch["reference"][0])
    np.testing.assert_array_equal(strip[:32, 32:64], batch["frames"][0, 0])
    np.testing.assert_array_equal(strip[32:64, 64:96], batch["control"][0, 1])
    assert strip[64:96, 32:].std() > 1
    compiled = _draw._cache_size()
    other = system.samples(params, batch, jax.random.key(1), "demo_stage2")["clips"]
    assert (other[64:96, 32:] != strip[64:96, 32:]).any()
    np.testing.assert_array_equal(other[:64], strip[:64])
    assert _draw._cache_size() == compiled
