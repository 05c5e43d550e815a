"""The stack of transformer layers: its hidden states, and masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.nn.encoder import Encoder, SelfAttention, StackConfig
from tests.weights import random_params

CONFIG = StackConfig(layers=2, heads=2, mlp=16)


@pytest.fixture(scope="module")
def x():
    return jax.random.normal(jax.random.key(0), (2, 5, 8))


def test_hidden_states_are_the_input_and_the_output_of_every_layer(x):
    module = Encoder(CONFIG)
    params = random_params(module, x)
    states = jax.jit(module.apply)(params, x)
    assert len(states) == 3
    np.testing.assert_array_equal(states[0], x)
    shallow = Encoder(StackConfig(layers=1, heads=2, mlp=16))
    np.testing.assert_allclose(jax.jit(shallow.apply)(params, x)[-1], states[1], atol=1e-5)
    assert np.abs(states[2] - states[1]).max() > 1e-2


def test_masked_tokens_are_not_seen(x):
    module = SelfAttention(heads=2)
    params = random_params(module, x)
    mask = jnp.broadcast_to(jnp.arange(5) < 3, (2, 1, 5))
    run = jax.jit(module.apply)
    np.testing.assert_allclose(run(params, x, mask)[:, :3], run(params, x[:, :3]), atol=1e-5)
    assert np.abs(run(params, x)[:, :3] - run(params, x[:, :3])).max() > 1e-3
