"""Protects the one table that every solver and loss reads predictions with."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portrait_jax.diffusion.prediction import to_x0_epsilon, training_target
from portrait_jax.errors import ConfigError

TYPES = ("epsilon", "v", "x0")
NUMBERS = st.floats(-3, 3, width=32)


@given(prediction=st.sampled_from(TYPES), x0=NUMBERS, epsilon=NUMBERS, angle=st.floats(0.05, 1.5))
def test_the_right_output_gives_back_data_and_noise(prediction, x0, epsilon, angle):
    x0, epsilon = jnp.full((1,), x0), jnp.full((1,), epsilon)
    alpha, sigma = jnp.cos(angle), jnp.sin(angle)
    output = training_target(prediction, x0, epsilon, alpha, sigma)
    found = to_x0_epsilon(prediction, alpha * x0 + sigma * epsilon, output, alpha, sigma)
    np.testing.assert_allclose(found[0], x0, atol=1e-4)
    np.testing.assert_allclose(found[1], epsilon, atol=1e-4)


@pytest.mark.parametrize("prediction", ["v", "x0"])
def test_pure_noise_is_read_exactly(prediction):
    x0, epsilon = jnp.array([0.3, -2.0]), jnp.array([1.0, 0.5])
    output = training_target(prediction, x0, epsilon, jnp.float32(0), jnp.float32(1))
    found = to_x0_epsilon(prediction, epsilon, output, jnp.float32(0), jnp.float32(1))
    np.testing.assert_array_equal(found[0], x0)
    np.testing.assert_array_equal(found[1], epsilon)


def test_epsilon_at_pure_noise_stays_finite():
    x = jnp.array([1.0])
    assert np.all(np.isfinite(to_x0_epsilon("epsilon", x, 0.9 * x, jnp.float32(0), jnp.float32(1))[0]))


def test_an_unknown_type_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'epsilon'"):
        training_target("epsilom", jnp.ones(1), jnp.ones(1), jnp.float32(1), jnp.float32(0))
