"""The distance between two sets of features as Gaussians: FVD and FID, given the features of whichever network.

This package has none of the networks whose features are in use (I3D for FVD, Inception for FID): they are the user's.
"""

from __future__ import annotations

import numpy as np

from portrait_jax.errors import ShapeError
from portrait_jax.typing import Float


def frechet_distance(one: Float[np.ndarray, "n d"], other: Float[np.ndarray, "m e"]) -> float:
    """|μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2 (Σ₁ Σ₂)^½) of the features of two sets of videos (FVD, arXiv 1812.01717, section 3).

    With Σ = AᵀA the last trace is the sum of the singular values of A₁ A₂ᵀ: no square root of a singular matrix is taken.

    Args:
        one, other: a row per video (or picture), by the same network.

    Raises:
        ShapeError: for less than two rows, or features of different widths.
    """
    if min(len(one), len(other)) < 2 or one.shape[1:] != other.shape[1:]:
        raise ShapeError(
            f"two sets of features need at least two rows each of the same width, not {one.shape} and {other.shape}"
        )
    means, roots, spread = [], [], 0.0
    for features in (np.asarray(one, np.float64), np.asarray(other, np.float64)):
        mean = features.mean(axis=0)
        root = (features - mean) / np.sqrt(len(features) - 1)
        means.append(mean)
        roots.append(root)
        spread += float((root**2).sum())
    shared = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    # Rounding may leave equal sets a little below zero.
    return max(float(((means[0] - means[1]) ** 2).sum() + spread - 2 * shared), 0.0)
