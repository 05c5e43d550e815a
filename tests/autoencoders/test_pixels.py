"""Protects: pixel ranges and the rounding between them."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from portrait_jax.autoencoders.pixels import cut, to_pm1, to_u8, worn

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


def test_a_worn_picture_is_what_a_trip_with_cut_off_fractions_leaves():
    """The trip in numpy: 0..1, [−1, 1], 0..1, and a cast."""
    levels = np.asarray(LEVELS)
    there = (levels.astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
    back = ((there / np.float32(2) + np.float32(0.5)) * np.float32(255)).astype(np.uint8)
    np.testing.assert_array_equal(worn(LEVELS), back)


def test_cutting_gives_the_level_below_and_keeps_whole_ones():
    between = jnp.array([-1.2, -1.0, -0.9999, 0.001, 0.9999, 1.0]).reshape(1, 2, 3)
    expected = (np.clip(np.asarray(between) / 2 + 0.5, 0, 1) * 255).astype(np.uint8)
    assert to_u8(cut(between)).tolist() == expected.tolist()
