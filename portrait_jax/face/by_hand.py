"""Landmarks of a face that no detector sees, from a few points that a person sets.

A picture of a cat, a drawing, a statue: a JSON file names some of MediaPipe's landmarks and says where they are,

    {"right_eye_outer": [120, 208], "left_eye_outer": [301, 206], "mouth_right": [168, 330], "4": [210, 270]}

by the names of `NAMES` or by MediaPipe's numbers, in pixels of the picture. "Left" and "right" are the subject's. The
canonical face is laid over these points (scaled, turned in the picture, moved) and then bent by a thin-plate spline so that it
goes through all of them. More points, a better fit: what is drawn are eyes, brows, inner lips and pupils.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np

from portrait_jax.errors import InputFileError, nearest
from portrait_jax.face.geometry import FaceGeometry
from portrait_jax.face.topology import (
    EYES,
    LEFT_PUPIL,
    LIP_PAIRS,
    MOUTH_CORNERS,
    NUM_LANDMARKS,
    RIGHT_PUPIL,
    index,
)
from portrait_jax.media.files import FilePath, checked_input
from portrait_jax.typing import Float

NAMES: Mapping[str, int] = {
    "right_eye_outer": 33, "right_eye_inner": 133, "right_eye_top": 159, "right_eye_bottom": 145, "right_pupil": RIGHT_PUPIL,
    "left_eye_outer": 263, "left_eye_inner": 362, "left_eye_top": 386, "left_eye_bottom": 374, "left_pupil": LEFT_PUPIL,
    "right_brow_outer": 46, "right_brow_middle": 105, "right_brow_inner": 55,
    "left_brow_outer": 276, "left_brow_middle": 334, "left_brow_inner": 285,
    "mouth_right": 78, "mouth_left": 308, "mouth_top": 13, "mouth_bottom": 14,
    "nose_tip": 4, "chin": 152, "forehead": 10, "right_cheek": 234, "left_cheek": 454,
}  # fmt: skip
LEAST = 3
"""Points that are needed."""
_MAX_BYTES = 1 << 20
_FAR = 1e5


def load_points(path: FilePath) -> dict[int, tuple[float, float]]:
    """Reads a JSON file of points: landmark number → (x, y) in pixels.

    Raises:
        InputFileError: no such file, no JSON object, an unknown name (with the nearest), a place that is no pair of numbers,
            two places for one landmark, or fewer than three points.
    """
    path = checked_input(path, "landmark")
    if path.stat().st_size > _MAX_BYTES:
        raise InputFileError(f"{path} has more than {_MAX_BYTES >> 20} MiB: it is no file of points set by hand")
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputFileError(f'{path} is no JSON ({str(error)[:100]}); write {{"nose_tip": [x, y], …}}') from error
    if not isinstance(entries, dict):
        raise InputFileError(f'{path} is no JSON object; write {{"nose_tip": [x, y], …}}')
    points: dict[int, tuple[float, float]] = {}
    for name, place in entries.items():
        number = _number(name, path)
        if number in points:
            raise InputFileError(f"{path} says twice where landmark {number} ('{name}') is")
        points[number] = _place(name, place, path)
    if len(points) < LEAST or np.linalg.matrix_rank(np.ptp(list(points.values()), axis=0)[None]) == 0:
        raise InputFileError(
            f"{path} has {len(points)} points; set at least {LEAST} that lie apart, better all drawn ones"
        )
    return points


def _number(name: str, path: object) -> int:
    if name in NAMES:
        return NAMES[name]
    if name.isdecimal() and len(name) <= 3 and int(name) < NUM_LANDMARKS:
        return int(name)
    raise InputFileError(
        f"{path}: '{name}' is no landmark{nearest(name, list(NAMES))}; or give MediaPipe's number, 0 to {NUM_LANDMARKS - 1}"
    )


def _place(name: str, place: object, path: object) -> tuple[float, float]:
    numbers = isinstance(place, list) and len(place) == 2 and all(type(value) in (int, float) for value in place)
    if not numbers or not all(abs(value) < _FAR for value in place):  # type: ignore[attr-defined]
        raise InputFileError(f"{path}: '{name}' must be a place in pixels, [x, y], not {str(place)[:40]}")
    return float(place[0]), float(place[1])  # type: ignore[index]


def complete(points: Mapping[int, tuple[float, float]], geometry: FaceGeometry) -> Float[np.ndarray, "478 3"]:
    """All landmarks of a face of which some are known.

    Args:
        points: landmark number → (x, y) in pixels, at least three.

    Returns:
        x, y through the given points; z (away from the camera) of the canonical face in the same scale, all in pixels.
    """
    face = upright(geometry)
    upper, lower = (set(side) for side in zip(*LIP_PAIRS))
    if upper & set(points) and lower & set(points):
        face = _opened(face)
    known = np.array(list(points))
    target = np.array([points[number] for number in known])
    scale, laid = _similar(face[known, :2], target, face[:, :2])
    moved = laid + _bent(laid[known], target - laid[known], laid)
    return np.concatenate([moved, scale * face[:, 2:]], axis=-1).astype(np.float32)


def upright(geometry: FaceGeometry) -> Float[np.ndarray, "478 3"]:
    """The canonical face in image axes (y down, z away from the camera), with open eyes that look ahead; in cm."""
    face = np.zeros((NUM_LANDMARKS, 3))
    face[: len(geometry.vertices)] = geometry.vertices * [1, -1, -1]
    rim = np.array([[0, 0, 0], [1, 0, 0], [0, -1, 0], [-1, 0, 0], [0, 1, 0]])
    for eye in EYES:
        corners = face[index(eye.corners)]
        face[index(eye.iris)] = face[index(eye.contour)].mean(axis=0) + rim * 0.2 * np.ptp(corners[:, 0])
    return face


def _opened(face: np.ndarray) -> np.ndarray:
    """With the inner lips apart: no spline can part points that lie on each other. The given points close them again."""
    face = face.copy()
    left, right = face[index(MOUTH_CORNERS), 0]
    for upper, lower in LIP_PAIRS:
        from_corner = min(abs(face[upper, 0] - left), abs(face[upper, 0] - right))
        face[lower, 1] = max(face[lower, 1], face[upper, 1] + 0.4 * from_corner)
    return face


def _similar(source: np.ndarray, target: np.ndarray, points: np.ndarray) -> tuple[float, np.ndarray]:
    """The scale of the least-squares similarity of plane points, and what it makes of `points`."""
    mean, goal = source.mean(0), target.mean(0)
    # As complex numbers a similarity is one factor.
    ours, theirs = (np.ascontiguousarray(x).view(complex)[:, 0] for x in (source - mean, target - goal))
    factor = np.vdot(ours, theirs) / max(np.vdot(ours, ours).real, 1e-9)
    turned = np.ascontiguousarray(points - mean).view(complex) * factor
    return float(abs(factor)), np.ascontiguousarray(turned).view(float).reshape(-1, 2) + goal


def _bent(at: np.ndarray, offsets: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The thin-plate spline that has these offsets at these places, elsewhere."""
    unit = max(float(np.ptp(at, axis=0).max()), 1e-6)
    at, points = at / unit, points / unit

    def kernel(x: np.ndarray) -> np.ndarray:
        square = ((x[:, None] - at[None]) ** 2).sum(-1)
        return square * np.log(np.maximum(square, 1e-12))

    plane = np.concatenate([np.ones((len(at), 1)), at], axis=1)
    system = np.block([[kernel(at), plane], [plane.T, np.zeros((3, 3))]])
    # Least squares: points on one line leave the plane undetermined, and then the least bend is wanted.
    weights = np.linalg.lstsq(system, np.concatenate([offsets, np.zeros((3, 2))]), rcond=1e-9)[0]
    return np.concatenate([kernel(points), np.ones((len(points), 1)), points], axis=1) @ weights
