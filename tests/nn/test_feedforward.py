"""Activations and gates."""

import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.errors import ConfigError
from portrait_jax.nn.feedforward import GEGLU, activation, gelu, quick_gelu


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
