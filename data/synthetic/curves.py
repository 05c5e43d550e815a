"""Smooth curves through few control points, as cached sampling matrices (a matrix product per curve)."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np


@lru_cache(maxsize=256)
def _matrix(controls: int, per_span: int, closed: bool) -> np.ndarray:
    """Catmull-Rom sampling matrix `(samples, controls)`; passes through every control point."""
    spans = controls if closed else controls - 1
    t = np.arange(per_span) / per_span
    basis = 0.5 * np.stack([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3], 1)
    matrix = np.zeros((spans * per_span + (not closed), controls))
    for span in range(spans):
        for k in range(4):
            index = span + k - 1
            rows = slice(span * per_span, (span + 1) * per_span)
            if closed:
                matrix[rows, index % controls] += basis[:, k]
            elif index < 0:  # end points continue in a straight line
                matrix[rows, 0] += 2 * basis[:, k]
                matrix[rows, 1] -= basis[:, k]
            elif index >= controls:
                matrix[rows, controls - 1] += 2 * basis[:, k]
                matrix[rows, controls - 2] -= basis[:, k]
            else:
                matrix[rows, index] += basis[:, k]
    if not closed:
        matrix[-1, controls - 1] = 1.0
    return matrix


def smooth(points: np.ndarray, per_span: int = 5, *, closed: bool = False) -> np.ndarray:
    """Samples Catmull-Rom curves through `points (…, n, d)`; every `per_span`-th sample is a control point."""
    points = np.asarray(points, float)
    return _matrix(points.shape[-2], per_span, closed) @ points


def loop(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The closed polygon between two curves that run the same way."""
    return np.concatenate([first, second[::-1]])


def ellipse(
    center: np.ndarray | tuple[float | int, float | int],
    radii: tuple[float, float],
    turn: float = 0.0,
    samples: int = 28,
) -> np.ndarray:
    """Polygon of an ellipse turned by `turn` radians."""
    c, s = math.cos(turn), math.sin(turn)
    axes = np.array([[radii[0] * c, radii[0] * s], [-radii[1] * s, radii[1] * c]])
    return _circle(samples) @ axes + np.asarray(center)[:2]


@lru_cache(maxsize=32)
def _circle(samples: int) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, samples, endpoint=False)
    return np.column_stack([np.cos(angle), np.sin(angle)])
