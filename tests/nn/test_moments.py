"""Protects statistics of frames and bringing frames to given ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from portrait_jax.nn.moments import align, moments


def test_alignment_gives_the_anchors_statistics_and_leaves_the_prefix_alone():
    x = jax.random.normal(jax.random.key(0), (2, 5, 3, 3, 4)) * 2 + 1
    anchor = jax.random.normal(jax.random.key(1), (2, 5, 3, 3, 4))
    free = jnp.array([0.0, 0, 1, 1, 1])
    wanted = moments(anchor, jnp.ones(5))
    moved = align(x, free, *wanted)
    for own, expected in zip(moments(moved, free), wanted):
        np.testing.assert_allclose(own, expected, atol=1e-4)
    np.testing.assert_array_equal(moved[:, :2], x[:, :2])
    np.testing.assert_allclose(align(x, free, *moments(x, free)), x, atol=1e-4)
    half = align(x, free, *wanted, strength=0.5)
    np.testing.assert_allclose(half, (x + moved) / 2, atol=1e-5)
    np.testing.assert_array_equal(align(x, free, *wanted, strength=0.0), x)


def test_moments_are_numpys():
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 4, 2)).astype(np.float32)
    mean, deviation = moments(jnp.asarray(x), jnp.array([0.0, 1, 1]))
    np.testing.assert_allclose(mean, x[:, 1:].mean((1, 2, 3)), atol=1e-6)
    np.testing.assert_allclose(deviation, x[:, 1:].std((1, 2, 3)), atol=1e-6)


def test_each_clip_may_have_frames_and_a_strength_of_its_own():
    x = jax.random.normal(jax.random.key(2), (2, 3, 2, 2, 4))
    free, strength = jnp.array([[0.0, 1, 1], [1, 1, 1]]), jnp.array([1.0, 0.5])
    wanted = jnp.ones((2, 4)), 2 * jnp.ones((2, 4))
    together = align(x, free, *wanted, strength)
    for i in range(2):
        alone = align(x[i : i + 1], free[i], wanted[0][:1], wanted[1][:1], float(strength[i]))
        np.testing.assert_allclose(together[i], alone[0], atol=1e-5)
