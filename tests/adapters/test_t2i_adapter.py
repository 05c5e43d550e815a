"""The T2I-Adapter: one feature map per level, where the UNet adds them, errors."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from portrait_jax.adapters import T2IAdapter, T2IAdapterConfig
from portrait_jax.errors import ShapeError


def test_features_halve_per_level_and_keep_the_frames():
    module, image = T2IAdapter(T2IAdapterConfig((4, 8, 8), 1, downscale=4)), jnp.zeros((2, 3, 20, 12, 3))
    features = jax.eval_shape(lambda key: module.init_with_output(key, image)[0], jax.random.key(0))
    assert [x.shape for x in features] == [(2, 3, 5, 3, 4), (2, 3, 3, 2, 8), (2, 3, 2, 1, 8)]


def test_a_picture_that_the_downscale_does_not_divide_is_a_shape_error():
    with pytest.raises(ShapeError, match="20×12 pixels is no multiple of 8"):
        T2IAdapter().init(jax.random.key(0), jnp.zeros((1, 1, 20, 12, 3)))
