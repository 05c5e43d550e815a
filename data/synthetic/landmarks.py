"""All 478 landmarks of a drawn face: exact where something is drawn, carried along by its neighbours elsewhere."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from data.synthetic.canonical import canonical_points
from data.synthetic.features import Features, jaw_shift
from data.synthetic.head import HeadShape, View
from data.synthetic.topology import (
    BROW_LOWER,
    BROW_UPPER,
    EYE_LOWER,
    EYE_UPPER,
    IRIS,
    IRIS_RIM,
    LIP_INNER_LOWER,
    LIP_INNER_UPPER,
    LIP_OUTER_LOWER,
    LIP_OUTER_UPPER,
    NOSE_RIDGE,
    NOSE_WING,
    NUM_LANDMARKS,
    OVAL,
    SIDES,
)  # fmt: skip


def _drawn(features: Features, shape: HeadShape) -> tuple[list[int], np.ndarray]:
    """Ids and head coordinates `(k, 3)` of every drawn point except irises; repeated corners appear once."""
    parts: list[tuple[tuple[int, ...], np.ndarray]] = []
    for side in SIDES:
        eye = features.eyes[side]
        parts += [(EYE_UPPER[side], eye.upper), (EYE_LOWER[side][1:-1], eye.lower[1:-1])]
        parts += [(BROW_UPPER[side], features.brow_upper[side]), (BROW_LOWER[side], features.brow_lower[side])]
        parts.append((NOSE_WING[side], features.nose_wing[side]))
    mouth = features.mouth
    parts += [(LIP_OUTER_UPPER, mouth.outer_upper), (LIP_OUTER_LOWER[1:-1], mouth.outer_lower[1:-1])]
    parts += [(LIP_INNER_UPPER, mouth.inner_upper), (LIP_INNER_LOWER[1:-1], mouth.inner_lower[1:-1])]
    parts.append((NOSE_RIDGE, features.nose_ridge))
    oval = shape.oval()
    parts.append((OVAL, shape.lift(oval) + jaw_shift(shape, oval, features.jaw_drop)))
    ids = [i for chain, _ in parts for i in chain]
    return ids, np.concatenate([points for _, points in parts])


@lru_cache(maxsize=4)
def _carry(ids: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Matrix `(478, k)` that spreads the drawn points' displacement from the canonical layout over all points
    (thin-plate spline in the frontal plane), and the canonical layout `(478, 3)`."""
    layout = canonical_points()
    control = layout[list(ids), :2]

    def kernel(a: np.ndarray) -> np.ndarray:
        square = ((a[:, None] - control[None]) ** 2).sum(-1)
        return 0.5 * square * np.log(square + 1e-12)

    k, n = len(ids), len(layout)
    system = np.zeros((k + 3, k + 3))
    system[:k, :k] = kernel(control) + 1e-4 * np.eye(k)
    system[:k, k:] = np.column_stack([np.ones(k), control])
    system[k:, :k] = system[:k, k:].T
    evaluate = np.column_stack([kernel(layout[:, :2]), np.ones(n), layout[:, :2]])
    weights = np.linalg.solve(system.T, evaluate.T).T[:, :k]
    weights[list(ids)] = np.eye(k)
    return weights, layout


def head_landmarks(features: Features, shape: HeadShape) -> np.ndarray:
    """The first 468 landmarks in head coordinates `(468, 3)`."""
    ids, points = _drawn(features, shape)
    weights, layout = _carry(tuple(ids))
    moved = (layout + weights @ (points - layout[ids]))[:468]
    cheeks = np.abs(moved[:, 0]) > 0.33  # beside the nose nothing but drawn parts rises from the surface
    cheeks[[i for i in ids if i < 468]] = False
    moved[cheeks, 2] = np.maximum(moved[cheeks, 2], shape.lift(moved[cheeks, :2])[:, 2] - 0.01)
    return moved


def project_landmarks(features: Features, shape: HeadShape, view: View) -> np.ndarray:
    """All 478 landmarks in image sides `(478, 3)`; the oval lies on the visible silhouette."""
    landmarks = np.empty((NUM_LANDMARKS, 3))
    landmarks[:468] = view.project(head_landmarks(features, shape))
    rim = view.rim(shape, shape.oval(), jaw_shift(shape, shape.oval(), features.jaw_drop))
    for _ in range(2):  # the eye sees every kink of a cheek
        rim = 0.5 * rim + 0.25 * (np.roll(rim, 1, 0) + np.roll(rim, -1, 0))
    landmarks[list(OVAL)] = rim
    for side in SIDES:
        eye = features.eyes[side]
        rim = np.column_stack([np.asarray(IRIS_RIM[side]) * eye.iris_radius, np.zeros(4)])
        landmarks[list(IRIS[side])] = view.project(np.concatenate([eye.iris[None], eye.iris + rim]))
    return landmarks
