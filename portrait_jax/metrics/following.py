"""Does the result follow the driver? Correlations of mouth opening and yaw over time, with a shuffled-driver control.

What a probe (`metrics.probe`) sees is flat and sparse, so the measures read few of MediaPipe's 478 points, no depth, and
all other points may be NaN. The two faces may differ in shape, size and place, so each quantity is measured in units of
its own face and compared by its course over time only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from portrait_jax.errors import ShapeError
from portrait_jax.face.measures import face_axes, mouth_opening
from portrait_jax.metrics.points import NOSE_TIP

CHEEKS = (234, 454)
"""The face's edge at the height of the ears, left and right in the image."""


def face_width(landmarks_px: Float[np.ndarray, "f 478 d"]) -> Float[np.ndarray, " f"]:
    """Distance between the cheeks' edges in pixels: the unit of landmark errors."""
    left, right = (landmarks_px[:, index, :2] for index in CHEEKS)
    return np.linalg.norm(right - left, axis=-1)


def yaw_ratio(landmarks_px: Float[np.ndarray, "f 478 d"]) -> Float[np.ndarray, " f"]:
    """Offset of the nose's tip from the middle of the face's edges, in face widths; grows towards image right."""
    points = landmarks_px[..., :2]
    across, _ = face_axes(landmarks_px)
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
