"""Norms equal their definitions in float64, also where a variance from squares would be lost."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portrait_jax.nn.norms import group_norm, layer_norm


def group_formula(x, groups, eps):
    x = np.asarray(x, np.float64)
    grouped = x.reshape(x.shape[0], -1, groups, x.shape[-1] // groups)
    centred = grouped - grouped.mean((1, 3), keepdims=True)
    return (centred / np.sqrt((centred**2).mean((1, 3), keepdims=True) + eps)).reshape(x.shape)


@given(groups=st.sampled_from([1, 2, 4, 8]), offset=st.sampled_from([0.0, 3.0, 1000.0]), seed=st.integers(0, 9))
def test_group_norm_equals_its_definition(groups, offset, seed):
    rng = np.random.default_rng(seed)
    x = (offset + rng.normal(size=(2, 3, 2, 8))).astype(np.float32)
    scale, bias = (jnp.asarray(rng.normal(size=8), jnp.float32) for _ in range(2))
    expected = group_formula(x, groups, 1e-5) * np.asarray(scale) + np.asarray(bias)
    np.testing.assert_allclose(
        group_norm(jnp.asarray(x), scale, bias, groups, 1e-5), expected, atol=2e-3 if offset > 9 else 1e-5
    )


@given(offset=st.sampled_from([0.0, 1000.0]), seed=st.integers(0, 9))
def test_layer_norm_equals_its_definition(offset, seed):
    x = (offset + np.random.default_rng(seed).normal(size=(2, 3, 8))).astype(np.float32)
    exact = x.astype(np.float64)
    centred = exact - exact.mean(-1, keepdims=True)
    expected = 2 * centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) + 1
    result = layer_norm(jnp.asarray(x), jnp.full(8, 2.0), jnp.ones(8), 1e-5)
    np.testing.assert_allclose(result, expected, atol=2e-3 if offset else 1e-5)


@pytest.mark.parametrize("norm", [layer_norm, lambda x, s, b, eps: group_norm(x, s, b, 2, eps)])
def test_bfloat16_input_has_float32_statistics(norm):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4096, 8)) + 8, jnp.bfloat16)
    result = norm(x, jnp.ones(8), jnp.zeros(8), 1e-5)
    assert result.dtype == jnp.bfloat16
    exact = norm(x.astype(jnp.float32), jnp.ones(8), jnp.zeros(8), 1e-5)
    assert np.abs(result.astype(jnp.float32) - exact).max() < 0.02
