"""Resizing, sinusoids, activations and convolutions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given
from hypothesis import strategies as st

from portrait_jax.errors import ConfigError
from portrait_jax.nn.conv import PointwiseConv
from portrait_jax.nn.embeddings import position_table, timestep_embedding
from portrait_jax.nn.feedforward import GEGLU, activation, gelu, quick_gelu
from portrait_jax.nn.resnet import Downsample, nearest
from tests.golden import random_params


@given(old=st.integers(1, 7), new=st.integers(1, 15))
def test_nearest_takes_the_floor_of_the_scaled_index(old, new):
    x = jnp.arange(old, dtype=jnp.float32)[None, :, None]
    np.testing.assert_array_equal(nearest(x, new, axis=1)[0, :, 0], [i * old // new for i in range(new)])


def test_downsampling_halves_rounding_up():
    shape = jax.eval_shape(Downsample(3).init_with_output, jax.random.key(0), jnp.zeros((1, 7, 4, 2)))[0].shape
    assert shape == (1, 4, 2, 3)


def test_timestep_embedding_has_cosines_first_and_float32():
    out = timestep_embedding(jnp.array([0, 999]), 8)
    assert out.dtype == jnp.float32
    angles = 999 * 10000.0 ** (-np.arange(4) / 4)
    np.testing.assert_allclose(out, [[1] * 4 + [0] * 4, [*np.cos(angles), *np.sin(angles)]], atol=1e-4)


@pytest.mark.parametrize("width", [6, 7])
def test_position_table_interleaves_sine_and_cosine(width):
    table = position_table(5, width)
    assert table.shape == (5, width)
    np.testing.assert_allclose(table[3, 0], np.sin(3), atol=1e-6)
    np.testing.assert_allclose(table[3, 1], np.cos(3), atol=1e-6)
    np.testing.assert_allclose(table[3, 2], np.sin(3 * 10000 ** (-2 / width)), atol=1e-6)


def test_activations_are_found_by_name_and_differ_as_published():
    x = jnp.array([1.0])
    np.testing.assert_allclose(gelu(x), 0.8413447, atol=1e-6)
    np.testing.assert_allclose(quick_gelu(x), 0.8457958, atol=1e-6)
    with pytest.raises(ConfigError, match="did you mean 'quick_gelu'"):
        activation("quickgelu")


def test_gated_unit_takes_the_value_first():
    kernel = jnp.array([[2.0, 3.0]])  # value 2x, gate 3x
    params = {"params": {"proj": {"kernel": kernel, "bias": jnp.zeros(2)}}}
    np.testing.assert_allclose(GEGLU(1).apply(params, jnp.ones((1, 1))), [[2 * float(gelu(jnp.array(3.0)))]], rtol=1e-6)


def test_pointwise_convolution_is_a_convolution():
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 5))
    params = random_params(PointwiseConv(6), x)
    expected = nn.Conv(6, (1, 1)).apply(params, x)
    np.testing.assert_allclose(PointwiseConv(6).apply(params, x), expected, atol=1e-5)
