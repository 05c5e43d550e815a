"""Protects the distance of two sets of features: its value for known Gaussians, and what it must not depend on."""

from __future__ import annotations

import numpy as np
import pytest

from portrait_jax.errors import ShapeError
from portrait_jax.metrics.frechet import frechet_distance

RNG = np.random.default_rng(0)


def root(matrix: np.ndarray) -> np.ndarray:
    """The square root of a symmetric matrix without negative eigenvalues."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def test_it_is_the_formula_with_matrix_square_roots():
    one = RNG.normal(size=(60, 5)) @ RNG.normal(size=(5, 5))
    other = 1.0 + RNG.normal(size=(40, 5)) @ RNG.normal(size=(5, 5))
    first, second = (np.cov(x, rowvar=False) for x in (one, other))
    half = root(first)
    shared = np.trace(root(half @ second @ half))
    shift = ((one.mean(axis=0) - other.mean(axis=0)) ** 2).sum()
    expected = shift + np.trace(first) + np.trace(second) - 2 * shared
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-9)


def test_axis_by_axis_it_is_the_difference_of_means_and_deviations():
    one = np.array([[-1.0, 0], [1, 0]])
    assert frechet_distance(one, 3 * one + [0, 2]) == pytest.approx(4 + (3 - 1) ** 2 * 2)


def test_equal_sets_are_at_no_distance_also_with_fewer_videos_than_features():
    few = RNG.normal(size=(7, 300)).astype(np.float32)
    assert frechet_distance(few, few[::-1]) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(few, few + 0.1) == pytest.approx(300 * 0.01, rel=1e-4)


@pytest.mark.parametrize("shapes", [((1, 4), (5, 4)), ((5, 4), (5, 3))])
def test_what_cannot_be_compared_is_refused(shapes):
    with pytest.raises(ShapeError, match="at least two rows each of the same width"):
        frechet_distance(*(np.zeros(shape) for shape in shapes))
