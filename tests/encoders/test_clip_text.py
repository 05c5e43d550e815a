"""The text encoder: causality, layers from the end, errors."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.encoders import CLIPText, CLIPTextConfig
from portrait_jax.errors import ConfigError, ShapeError
from tests.weights import random_params

TINY = CLIPTextConfig(vocabulary=20, positions=6, hidden=8, layers=2, heads=2, mlp=16)


@pytest.fixture(scope="module")
def params():
    return random_params(CLIPText(TINY), jnp.zeros((1, 6), int))


def test_a_token_sees_those_before_it_and_none_behind(params):
    run = jax.jit(CLIPText(TINY).apply)
    first, second = run(params, jnp.array([[1, 2, 3, 4, 5, 6]])), run(params, jnp.array([[1, 2, 3, 9, 5, 6]]))
    np.testing.assert_allclose(first[:, :3], second[:, :3], atol=1e-5)
    assert np.abs(first[:, 3:] - second[:, 3:]).max(-1).min() > 1e-3
    np.testing.assert_allclose(run(params, jnp.array([[1, 2, 3]])), first[:, :3], atol=1e-5)


def test_clip_skip_leaves_out_the_last_layers(params):
    ids = jnp.array([[1, 2, 3]])
    skipped = jax.jit(lambda p, ids: CLIPText(TINY).apply(p, ids, clip_skip=2))(params, ids)
    shallow = CLIPTextConfig(**(vars(TINY) | {"layers": 1}))
    np.testing.assert_allclose(skipped, jax.jit(CLIPText(shallow).apply)(params, ids), atol=1e-5)


def test_mistakes_name_the_remedy(params):
    with pytest.raises(ShapeError, match="7 tokens exceeds 6; truncate"):
        CLIPText(TINY).apply(params, jnp.zeros((1, 7), int))
    with pytest.raises(ConfigError, match="clip_skip 3 is no layer of 2"):
        CLIPText(TINY).apply(params, jnp.zeros((1, 6), int), clip_skip=3)
