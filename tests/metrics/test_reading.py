"""Protects: what is read linearly off vectors is what they hold, judged where the map was not fitted."""

import numpy as np
import pytest

from portrait_jax.errors import ShapeError
from portrait_jax.metrics.reading import linear_reading


def test_what_vectors_hold_is_read_off_and_what_they_do_not_is_not():
    rng = np.random.default_rng(0)
    vectors = 5 + 0.01 * rng.normal(size=(400, 6))
    held, noise = vectors @ rng.normal(size=6), rng.normal(size=400)
    facts = np.stack([held, noise, 3 - 7 * held], axis=1)
    found = linear_reading(vectors[:300], facts[:300], vectors[300:], facts[300:])
    np.testing.assert_allclose(found[[0, 2]], 1, atol=0.01)
    assert found[1] < 0.1


def test_many_numbers_do_not_explain_few_examples():
    rng = np.random.default_rng(1)
    vectors, facts = rng.normal(size=(60, 200)), rng.normal(size=(60, 1))
    assert linear_reading(vectors[:40], facts[:40], vectors[40:], facts[40:])[0] < 0.3
    with pytest.raises(ShapeError, match="at least two"):
        linear_reading(vectors[:1], facts[:1], vectors, facts)
