"""Sinusoids of noise levels, of times and of places."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.nn.embeddings import place_table, position_table, rotary_angles, rotate, timestep_embedding


def test_timestep_embedding_has_cosines_first_and_float32():
    out = timestep_embedding(jnp.array([0, 999]), 8)
    assert out.dtype == jnp.float32
    angles = 999 * 10000.0 ** (-np.arange(4) / 4)
    np.testing.assert_allclose(out, [[1] * 4 + [0] * 4, [*np.cos(angles), *np.sin(angles)]], atol=1e-4)


@pytest.mark.parametrize("width", [6, 7])
def test_position_table_interleaves_sine_and_cosine(width):
    table = position_table(5, width)
    assert table.shape == (5, width)
    np.testing.assert_allclose(table[3, 0], np.sin(3), atol=1e-6)
    np.testing.assert_allclose(table[3, 1], np.cos(3), atol=1e-6)
    np.testing.assert_allclose(table[3, 2], np.sin(3 * 10000 ** (-2 / width)), atol=1e-6)


def test_place_table_tells_every_place_from_every_other_whatever_the_resolution():
    table = place_table(8, 16)
    assert table.shape == (8, 16, 16) and table.dtype == np.float32
    places = table.reshape(-1, 16)
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1)
    assert apart[~np.eye(len(places), dtype=bool)].min() > 0.5
    # x is the first half of the sines: constant down a column; the middle of the picture is the crest of its half wave.
    np.testing.assert_array_equal(table[0, :, :4], table[7, :, :4])
    np.testing.assert_allclose(place_table(5, 5)[2, 2, [0, 4]], 1, atol=1e-6)


def test_turned_heads_depend_on_differences_of_positions_alone():
    """Along each of three axes, with a part of the head for each."""
    angles = rotary_angles([np.arange(3.0), np.arange(4.0), np.arange(5.0)], (4, 6, 6))
    assert angles.shape == (60, 16)
    q, k = (jax.random.normal(jax.random.key(i), (1, 1, 1, 16)) for i in range(2))
    every = [rotate(jnp.repeat(x, 60, axis=1), angles)[0, :, 0] for x in (q, k)]
    scores = (every[0] @ every[1].T).reshape(3, 4, 5, 3, 4, 5)
    np.testing.assert_allclose(scores[0, 1, 2, 1, 3, 3], scores[1, 0, 0, 2, 2, 1], atol=1e-4)
    np.testing.assert_allclose(scores[0, 0, 0, 0, 0, 0], (q * k).sum(), atol=1e-4)
    assert abs(scores[0, 0, 0, 0, 0, 1] - scores[0, 0, 0, 0, 1, 0]) > 1e-3
