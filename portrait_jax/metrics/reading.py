"""What can be read off vectors by a linear map: how much of something they tell, in a form that a network can use at once."""

from __future__ import annotations

import numpy as np

from portrait_jax.errors import ShapeError
from portrait_jax.typing import Float

RIDGE = 10.0
"""Weight of the coefficients' squares, with vectors of unit deviation: keeps few examples from explaining themselves."""


def linear_reading(
    vectors: Float[np.ndarray, "n e"],
    facts: Float[np.ndarray, "n k"],
    other_vectors: Float[np.ndarray, "m e"],
    other_facts: Float[np.ndarray, "m k"],
) -> Float[np.ndarray, " k"]:
    """Coefficient of determination of each fact on examples that ridge regression has not seen: 1 is all, 0 as much as the mean
    of the others tells, below 0 less.

    Args:
        vectors, facts: what the map is fitted on.
        other_vectors, other_facts: what it is judged on; of other people, or whose they are is read instead.

    Raises:
        ShapeError: there are fewer than two examples of either.
    """
    if min(len(vectors), len(other_vectors)) < 2:
        raise ShapeError(f"{len(vectors)} examples to fit and {len(other_vectors)} to judge; give at least two of each")
    mean, deviation = vectors.mean(0), vectors.std(0) + 1e-6

    def design(x: np.ndarray) -> np.ndarray:
        return np.column_stack([(x - mean) / deviation, np.ones(len(x))]).astype(np.float64)

    known, penalty = design(vectors), RIDGE * np.eye(vectors.shape[1] + 1)
    penalty[-1, -1] = 0.0
    weights = np.linalg.solve(known.T @ known + penalty, known.T @ facts)
    error = ((design(other_vectors) @ weights - other_facts) ** 2).mean(0)
    return 1 - error / np.maximum(other_facts.var(0), 1e-12)
