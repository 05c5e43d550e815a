"""Protects: vectors find their codes, and each loss moves what it should and nothing else."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.motion.quantizer import codebook_losses, distances, nearest, straight_through, usage

CODES = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [9.0, 9.0]])
VECTORS = jnp.array([[[0.1, 0.1], [0.9, -0.2], [0.2, 1.8]]])


def losses(vectors, codebook):
    spans = distances(vectors, codebook)
    return codebook_losses(vectors, codebook, spans.argmin(-1), spans)


def test_the_nearest_code_is_found():
    assert nearest(VECTORS, CODES).tolist() == [[0, 1, 2]]
    wanted = np.square(np.asarray(VECTORS)[:, :, None] - np.asarray(CODES)).sum(-1)
    np.testing.assert_allclose(distances(VECTORS, CODES), wanted, atol=1e-5)


def test_rounding_passes_gradients_straight_through():
    value, slope = jax.value_and_grad(lambda x: (straight_through(x, jnp.round(x)) ** 2).sum())(jnp.array([[[1.2]]]))
    assert float(value) == 1.0 and float(slope[0, 0, 0]) == 2.0


def test_codebook_moves_codes_commitment_moves_vectors_and_revival_moves_what_nobody_chose():
    def slope(name):
        return jax.grad(lambda vectors, codes: losses(vectors, codes)[name], (0, 1))(VECTORS, CODES)

    slopes = {name: slope(name) for name in ("codebook", "commitment", "revival")}
    chosen = np.asarray(VECTORS)[0] - np.asarray(CODES)[:3]
    np.testing.assert_allclose(slopes["codebook"][1][:3], -2 * chosen / 6, atol=1e-6)
    np.testing.assert_allclose(slopes["commitment"][0][0], 2 * chosen / 6, atol=1e-6)
    revived = np.asarray(slopes["revival"][1])
    assert np.abs(revived[:3]).max() == 0 and (revived[3] > 0).all(), "towards the vectors, down the slope"
    for name, (vectors, codes) in slopes.items():
        still = codes if name == "commitment" else vectors
        assert np.abs(still).max() == 0, name


def test_dead_codes_come_back():
    rng = np.random.default_rng(0)
    vectors = jnp.asarray(rng.normal(size=(4, 32, 2)), jnp.float32)
    codebook = jnp.asarray(rng.normal(size=(16, 2)) * 0.01 + 5.0, jnp.float32)

    @partial(jax.jit, static_argnums=1)
    def step(codebook, revival):
        def loss(codebook):
            found = losses(vectors, codebook)
            return found["codebook"] + revival * found["revival"]

        return codebook - jax.grad(loss)(codebook)

    def used_after(revival):
        current = codebook
        for _ in range(250):
            current = step(current, revival)
        return float(usage(nearest(vectors, current), 16)["codes_used"])

    without, revived = used_after(0.0), used_after(1.0)
    assert without <= 3 and revived >= 8, (without, revived)


def test_usage_counts_codes_and_their_evenness():
    even, uneven = usage(jnp.arange(8)[None], 16), usage(jnp.array([[0] * 7 + [1]]), 16)
    assert float(even["codes_used"]) == 8 and float(even["perplexity"]) == pytest.approx(8, rel=1e-4)
    assert float(uneven["codes_used"]) == 2 and 1 < float(uneven["perplexity"]) < 2
