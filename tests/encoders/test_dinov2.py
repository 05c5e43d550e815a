"""DINOv2: tokens and their order, the position table at other sizes, where an adapter acts, what does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from portrait_jax.encoders.dinov2 import BlockAdapter, DINOv2, DINOv2Config, imagenet_pixels, resized_positions
from portrait_jax.errors import ConfigError, ShapeError
from tests.weights import random_params

TINY = DINOv2Config(hidden=8, layers=2, heads=2, mlp=8, patch=4, registers=2, grid=3)


class Extra(nn.Module):
    """Adds the first extra token to all."""

    dtype: object = jnp.float32

    @nn.compact
    def __call__(self, x, extra, grid):
        assert x.shape[1] == 1 + TINY.registers + grid[0] * grid[1]
        return x + extra[:, :1]


def test_an_adapter_acts_in_its_blocks_alone():
    x, extra = jax.random.normal(jax.random.key(0), (1, 8, 12, 3)), jnp.ones((1, 1, 8))
    params = random_params(DINOv2(TINY), x)

    def run(blocks, gain=1.0):
        return jax.jit(DINOv2(TINY, BlockAdapter(Extra, blocks, gain)).apply)(params, x, extra)

    plain = jax.jit(DINOv2(TINY).apply)(params, x)
    assert plain.shape == (1, 1 + 2 + 2 * 3, 8)
    np.testing.assert_array_equal(run((5,)), plain)
    assert np.abs(run((0,)) - run((1,))).max() > 1e-3
    assert 0 < np.abs(run((0,), 1e-3) - plain).max() < 0.1 * np.abs(run((0,)) - plain).max()


def test_positions_of_a_linear_ramp_stay_a_ramp():
    ramp = jnp.arange(9.0).reshape(1, 9, 1)
    table = jnp.concatenate([jnp.full((1, 1, 1), 100.0), ramp], axis=1)
    np.testing.assert_array_equal(resized_positions(TINY, table, 3, 3), table)
    for offset in (None, 0.0):
        config = DINOv2Config(**(vars(TINY) | {"plain_offset": offset}))
        made = resized_positions(config, table, 6, 6)
        assert made.shape == (1, 37, 1) and made[0, 0, 0] == 100
        middle = np.asarray(made[0, 1:, 0]).reshape(6, 6)[2:4, 2:4]
        np.testing.assert_allclose(middle.mean(), 4, atol=1e-4)
        assert (np.diff(middle, axis=0) > 1).all() and (np.diff(middle, axis=1) > 0.3).all()


def test_pixels_are_normalised_and_resized():
    grey = imagenet_pixels(jnp.zeros((1, 20, 20, 3)), 8)
    np.testing.assert_allclose(
        grey[0, 0, 0], (0.5 - np.array([0.485, 0.456, 0.406])) / [0.229, 0.224, 0.225], rtol=1e-5
    )
    assert grey.shape == (1, 8, 8, 3)


def test_what_does_not_fit_is_named():
    with pytest.raises(ShapeError, match="do not divide into patches of 4"):
        jax.eval_shape(DINOv2(TINY).init, jax.random.key(0), jnp.zeros((1, 9, 8, 3)))
    with pytest.raises(ConfigError, match="give both or neither"):
        jax.eval_shape(DINOv2(TINY).init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)), jnp.zeros((1, 1, 8)))
