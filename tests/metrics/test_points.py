"""Which points the probe finds, and where they belong."""

import numpy as np

from portrait_jax.face.topology import EXPRESSION_POINTS, OVAL
from portrait_jax.metrics.points import POINTS, scatter


def test_points_are_those_of_the_drawing_and_the_outline():
    assert {*EXPRESSION_POINTS, *OVAL} < set(POINTS)
    assert len(set(POINTS)) == len(POINTS) and list(POINTS) == sorted(POINTS)


def test_scattered_points_lie_at_their_numbers_and_others_are_nan():
    points = np.arange(2 * len(POINTS) * 2, dtype=np.float32).reshape(2, -1, 2)
    landmarks = scatter(points)
    np.testing.assert_array_equal(landmarks[:, POINTS], points)
    assert np.isnan(landmarks).any(axis=-1).sum() == 2 * (478 - len(POINTS))
