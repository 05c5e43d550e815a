"""Scanned layers: the same numbers as one after the other, whatever the backward pass keeps."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from portrait_jax.errors import ConfigError
from portrait_jax.nn.layers import POLICIES, scanned


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, own, common):
        x = jnp.tanh(nn.Dense(x.shape[-1], name="dense")(x) + own) * common
        return x, x.sum()


def run(remat, x, own):
    module = scanned(Layer, 3, (0, nn.broadcast), remat)(name="layers")
    params = module.init(jax.random.key(0), x, own, jnp.float32(2))
    return params, jax.value_and_grad(lambda p: module.apply(p, x, own, jnp.float32(2))[0].sum())(params), module


@pytest.mark.parametrize("remat", ["none", *POLICIES])
def test_layers_run_in_order_with_inputs_of_their_own(remat):
    x, own = jnp.ones((2, 4)), jnp.arange(3.0)
    params, (total, slopes), module = run(remat, x, own)
    kernels = params["params"]["dense"]
    assert kernels["kernel"].shape == (3, 4, 4)
    by_hand, sums = x, []
    for i in range(3):
        by_hand = jnp.tanh(by_hand @ kernels["kernel"][i] + kernels["bias"][i] + own[i]) * 2
        sums.append(by_hand.sum())
    np.testing.assert_allclose(total, by_hand.sum(), rtol=1e-5)
    np.testing.assert_allclose(module.apply(params, x, own, jnp.float32(2))[1], sums, rtol=1e-5)
    assert all(np.any(leaf[0]) for leaf in jax.tree.leaves(slopes))


def test_an_unknown_policy_is_refused():
    with pytest.raises(ConfigError, match="did you mean 'weights'"):
        scanned(Layer, 1, (), "weight")
