"""Protects: pixel ranges and the rounding between them."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from portrait_jax.autoencoders.pixels import to_pm1, to_u8

LEVELS = jnp.arange(256, dtype=jnp.uint8).repeat(3).reshape(1, 16, 16, 3)


def test_every_grey_level_survives_the_way_there_and_back():
    scaled = to_pm1(LEVELS)
    assert float(scaled.min()) == -1 and float(scaled.max()) == 1 and scaled.dtype == jnp.float32
    np.testing.assert_array_equal(to_u8(scaled), LEVELS)


def test_half_precision_is_off_by_at_most_one_level():
    assert np.abs(to_u8(to_pm1(LEVELS).astype(jnp.bfloat16)).astype(int) - LEVELS).max() <= 1


def test_values_beyond_the_range_are_clipped_not_wrapped():
    image = jnp.array([-1.5, -1.001, 0.999, 1.001, 7.0])
    assert to_u8(image).tolist() == [0, 0, 255, 255, 255]
