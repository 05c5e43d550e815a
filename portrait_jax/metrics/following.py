"""Does the result follow the driver? Correlations of mouth opening and yaw over time, with a shuffled-driver control.

`face.measures` needs all points with depth; what a probe sees is flat and sparse, so the measures here are made for
that. The two faces may differ in shape, size and place, so each quantity is measured in units of its own face and
compared by its course over time only. Landmarks are in MediaPipe's 478-point topology; only the points named here are
read, all others may be NaN, so a detector that knows few points (`metrics.probe`) can be used for the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from portrait_jax.errors import ShapeError
from portrait_jax.metrics.points import NOSE_TIP

EYE_CORNERS = (33, 133, 362, 263)
"""Outer and inner corner of the subject's right eye, inner and outer of the left: from left to right in the image."""
INNER_LIPS_UPPER, INNER_LIPS_LOWER = (81, 13, 311), (178, 14, 402)
CHEEKS = (234, 454)
"""The face's edge at the height of the ears, left and right in the image."""


def face_axes(landmarks_px: Float[np.ndarray, "f 478 d"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The face's own frame: unit vectors along the eyes `f 2` and down the face `f 2`, eye distance in pixels `f`."""
    points = landmarks_px[..., :2]
    right = points[:, EYE_CORNERS[:2]].mean(axis=1)
    left = points[:, EYE_CORNERS[2:]].mean(axis=1)
    across = left - right
    distance = np.maximum(np.linalg.norm(across, axis=-1), 1e-6)
    across = across / distance[:, None]
    return across, np.stack([-across[:, 1], across[:, 0]], axis=-1), distance


def face_width(landmarks_px: Float[np.ndarray, "f 478 d"]) -> Float[np.ndarray, " f"]:
    """Distance between the cheeks' edges in pixels: the unit of landmark errors."""
    left, right = (landmarks_px[:, index, :2] for index in CHEEKS)
    return np.linalg.norm(right - left, axis=-1)


def mouth_opening(landmarks_px: Float[np.ndarray, "f 478 d"]) -> Float[np.ndarray, " f"]:
    """Gap of the inner lips along the face's down axis over the height from the eye line to the upper lip.

    Both lie along the axis that turning the head leaves nearly unchanged.
    """
    points = landmarks_px[..., :2]
    _, down, _ = face_axes(landmarks_px)
    upper, lower = points[:, INNER_LIPS_UPPER].mean(axis=1), points[:, INNER_LIPS_LOWER].mean(axis=1)
    eyes = points[:, EYE_CORNERS].mean(axis=1)
    height = np.maximum(((upper - eyes) * down).sum(-1), 1e-6)
    return ((lower - upper) * down).sum(-1) / height


def yaw_ratio(landmarks_px: Float[np.ndarray, "f 478 d"]) -> Float[np.ndarray, " f"]:
    """Offset of the nose's tip from the middle of the face's edges, in face widths; grows towards image right."""
    points = landmarks_px[..., :2]
    across, _, _ = face_axes(landmarks_px)
    middle = points[:, CHEEKS].mean(axis=1)
    return ((points[:, NOSE_TIP] - middle) * across).sum(-1) / np.maximum(face_width(landmarks_px), 1e-6)


MEASURES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {"mouth": mouth_opening, "yaw": yaw_ratio}


@dataclass(frozen=True)
class Following:
    """How one quantity of the result follows the driver's."""

    correlation: float
    """Pearson correlation over time, -1..1; 0 when either side stands still."""
    shuffled: float
    """Mean correlation with the driver's frames in random order: near 0 for an honest measure."""
    chance: float
    """95th percentile of the absolute correlation with shuffled drivers: what chance alone reaches."""

    @property
    def follows(self) -> bool:
        return self.correlation > max(self.chance, 0.0)


def correlation(a: Float[np.ndarray, " f"], b: Float[np.ndarray, " g"]) -> float:
    """Pearson correlation; 0 when one of the two is constant."""
    if np.shape(a) != np.shape(b):
        raise ShapeError(f"driver has {np.shape(a)} frames, result {np.shape(b)}: they must agree frame by frame")
    a, b = a - np.mean(a), b - np.mean(b)
    scale = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / scale) if scale > 1e-12 else 0.0


def follow(
    driver: Float[np.ndarray, " f"], result: Float[np.ndarray, " g"], *, shuffles: int = 200, seed: int = 0
) -> Following:
    """Correlates two courses over time and repeats it with `shuffles` random orders of the driver's frames."""
    rng = np.random.default_rng(seed)
    controls = np.array([correlation(rng.permutation(driver), result) for _ in range(shuffles)])
    return Following(correlation(driver, result), float(controls.mean()), float(np.quantile(np.abs(controls), 0.95)))


def following(
    driving_px: Float[np.ndarray, "f 478 d"], result_px: Float[np.ndarray, "g 478 e"], *, seed: int = 0
) -> dict[str, Following]:
    """Mouth opening and yaw of the result against the driver's: `{"mouth": …, "yaw": …}`.

    Raises `ShapeError` when the two have different numbers of frames.
    """
    return {name: follow(measure(driving_px), measure(result_px), seed=seed) for name, measure in MEASURES.items()}
