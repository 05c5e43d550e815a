"""The motion memory: frames are alone, intensity matters, and ablations leave out what they name."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.adapters.motion_memory import MotionMemory, MotionMemoryConfig
from tests.weights import random_params, shapes

TINY = MotionMemoryConfig(tokens=3, width=8, intensity_width=4, levels=6, layers=2, heads=2, out=5)
FEATURES, LEVEL = jax.random.normal(jax.random.key(0), (1, 3, 1, 7)), jnp.array([[0, 2, 2]])


@pytest.fixture(scope="module")
def run():
    params = random_params(MotionMemory(TINY), FEATURES, LEVEL, LEVEL)
    return jax.jit(lambda *args: MotionMemory(TINY).apply(params, *args))


def test_a_frame_sees_its_own_feature_and_level_alone(run):
    out = run(FEATURES, LEVEL, LEVEL)
    assert out.shape == (1, 3, 3, 5)
    changed = np.abs(run(FEATURES.at[:, 1].add(1), LEVEL, LEVEL) - out).max((0, 2, 3))
    assert changed[1] > 1e-3 and not changed[[0, 2]].any()
    for levels in ((LEVEL.at[0, 2].set(5), LEVEL), (LEVEL, LEVEL.at[0, 2].set(5))):
        changed = np.abs(run(FEATURES, *levels) - out).max((0, 2, 3))
        assert changed[2] > 1e-3 and not changed[:2].any()


def test_ablations_have_no_memory_or_no_intensity():
    args = (FEATURES, LEVEL, LEVEL)
    plain = replace(TINY, memory=False)
    params = random_params(MotionMemory(plain), *args)
    assert not any("perceiver" in path or "latents" in path for path in shapes(params["params"]))
    assert jax.jit(MotionMemory(plain).apply)(params, *args).shape == (1, 3, 3, 5)
    deaf = replace(TINY, intensity=False)
    params = random_params(MotionMemory(TINY), *args)
    run = jax.jit(lambda *args: MotionMemory(deaf).apply(params, *args))
    np.testing.assert_array_equal(run(*args), run(FEATURES, LEVEL + 1, LEVEL + 2))
