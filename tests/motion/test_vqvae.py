"""Protects: frames per code, that codes and decoder agree, how far a frame is seen, and the full size."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.errors import ShapeError
from portrait_jax.motion.vqvae import MotionVQ, MotionVQConfig
from tests.weights import random_params, tree_of

TINY = MotionVQConfig(motion=3, width=8, levels=2, dilations=(3, 1), codes=16, code_dim=4)
NETWORK = MotionVQ(TINY)


@pytest.fixture(scope="module")
def motion():
    return jnp.asarray(np.random.default_rng(0).normal(size=(2, 24, 3)), jnp.float32)


@pytest.fixture(scope="module")
def variables(motion):
    return random_params(NETWORK, motion)


def apply(variables, x, method):
    return jax.jit(lambda variables, x: NETWORK.apply(variables, x, method=method))(variables, x)


def test_four_frames_have_one_code_and_the_whole_is_decode_after_encode(variables, motion):
    codes = apply(variables, motion, "encode")
    assert codes.shape == (2, 6) and codes.dtype == jnp.int32 and int(codes.max()) < TINY.codes
    decoded = apply(variables, codes, "decode")
    assert decoded.shape == motion.shape
    np.testing.assert_allclose(decoded, jax.jit(NETWORK.apply)(variables, motion), rtol=1e-4, atol=1e-5)
    vectors = variables["params"]["codebook"][codes]
    np.testing.assert_allclose(apply(variables, vectors, "decode_vectors"), decoded, rtol=1e-5)


def test_a_code_reaches_only_the_frames_around_it(variables):
    codes = jnp.zeros((1, 40), jnp.int32)
    moved = jnp.abs(apply(variables, codes.at[0, 20].set(1), "decode") - apply(variables, codes, "decode")).max(-1)[0]
    reached = np.flatnonzero(np.asarray(moved) > 1e-6)
    assert 80 in reached and reached.min() > 40 and reached.max() < 124, "so any length decodes without seams"


def test_frames_that_do_not_come_out_even_are_refused(variables, motion):
    for frames in (0, 22):
        with pytest.raises(ShapeError, match=f"{frames} frames of motion are no multiple of 4"):
            NETWORK.apply(variables, motion[:, :frames], method="encode")


def test_full_size_has_4096_codes_of_8_numbers_for_128_frames():
    network = MotionVQ()
    tree = tree_of(network, np.zeros((1, 128, 512), np.float32))
    assert tree["codebook"].shape == (4096, 8)
    codes = jax.eval_shape(
        lambda params, x: network.apply({"params": params}, x, method="encode"), tree, jnp.zeros((2, 128, 512))
    )
    assert codes.shape == (2, 32)
