"""What a face does, read off its landmarks: head pose, mouth opening, eye opening.

Rotations are those of weak perspective in image axes (x right, y down, z away from the camera).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from portrait_jax.face.topology import EYES, MOUTH_CORNERS, index
from portrait_jax.typing import Float, Landmarks

_RIGID = {
    4: (0.07, (0.00, 0.46, -7.59)),
    5: (0.04, (0.00, -0.37, -7.24)),
    195: (0.04, (0.00, -1.06, -6.78)),
    197: (0.04, (0.00, -1.73, -6.32)),
    6: (0.04, (0.00, -2.47, -5.79)),
    168: (0.04, (0.00, -3.27, -5.24)),
    9: (0.02, (0.00, -4.89, -5.39)),
    151: (0.02, (0.00, -6.55, -5.03)),
    94: (0.02, (0.00, 1.72, -6.60)),
    33: (0.06, (-4.45, -2.66, -3.17)),
    263: (0.06, (4.45, -2.66, -3.17)),
    133: (0.05, (-1.86, -2.59, -3.76)),
    362: (0.05, (1.86, -2.59, -3.76)),
    143: (0.03, (-6.41, -2.24, -1.56)),
    372: (0.03, (6.41, -2.24, -1.56)),
    129: (0.08, (-1.79, 0.98, -4.85)),
    358: (0.08, (1.79, 0.98, -4.85)),
    98: (0.03, (-1.41, 1.71, -5.24)),
    327: (0.03, (1.41, 1.71, -5.24)),
    119: (0.02, (-3.30, -0.86, -3.87)),
    348: (0.02, (3.30, -0.86, -3.87)),
    117: (0.02, (-5.26, -0.95, -2.97)),
    346: (0.02, (5.26, -0.95, -2.97)),
}
"""Landmarks that expressions move least: weight and frontal position in cm. Positions are MediaPipe's canonical face
(its `canonical_face_model`), weights follow its Procrustes basis with the cheeks and the silhouette taken out."""

RIGID_POINTS = index(tuple(_RIGID))
RIGID_WEIGHTS = np.array([weight for weight, _ in _RIGID.values()])
FRONTAL_FACE = np.array([position for _, position in _RIGID.values()])

EYE_CORNERS = (33, 133, 362, 263)
"""Outer and inner corner of the subject's right eye, inner and outer of the left: from left to right in the image."""
INNER_LIPS_UPPER, INNER_LIPS_LOWER = (81, 13, 311), (178, 14, 402)


class Pose(NamedTuple):
    """Similarity from head coordinates to pixels: `scale * rotation @ point + translation`."""

    scale: Float[np.ndarray, "*f"]
    rotation: Float[np.ndarray, "*f 3 3"]
    translation: Float[np.ndarray, "*f 3"]

    def place(self, local: Float[np.ndarray, "*f p 3"]) -> Float[np.ndarray, "*f p 3"]:
        """Head coordinates to pixels."""
        turned = local @ np.swapaxes(self.rotation, -1, -2)
        return self.scale[..., None, None] * turned + self.translation[..., None, :]

    def remove(self, placed: Float[np.ndarray, "*f p 3"]) -> Float[np.ndarray, "*f p 3"]:
        """Pixels to head coordinates."""
        return (placed - self.translation[..., None, :]) @ self.rotation / self.scale[..., None, None]


def fit_pose(landmarks_px: Landmarks, shape: Float[np.ndarray, "n 3"] = FRONTAL_FACE) -> Pose:
    """Weighted least-squares similarity of `shape` (positions of RIGID_POINTS) onto each frame's rigid points.

    The origin of head coordinates is the weighted centre of `shape`, so the translation is where that centre lies and
    does not depend on the rotation's error.
    """
    target = landmarks_px[..., RIGID_POINTS, :].astype(np.float64)
    weights = (RIGID_WEIGHTS / RIGID_WEIGHTS.sum())[:, None]
    source = shape - (weights * shape).sum(0)
    translation = (weights * target).sum(-2)
    covariance = np.swapaxes(target - translation[..., None, :], -1, -2) @ (weights * source)
    left, _, right = np.linalg.svd(covariance)
    proper = np.ones(covariance.shape[:-1])
    proper[..., 2] = np.sign(np.linalg.det(left @ right))  # A rotation, never a mirror image.
    rotation = (left * proper[..., None, :]) @ right
    scale = (rotation * covariance).sum((-1, -2)) / (weights * source**2).sum()
    return Pose(np.maximum(scale, 1e-6), rotation, translation)


def euler_degrees(rotation: Float[np.ndarray, "*f 3 3"]) -> Float[np.ndarray, "*f 3"]:
    """(yaw, pitch, roll) in degrees: yaw > 0 turns to image right, pitch > 0 looks up, roll > 0 tilts clockwise."""
    yaw = np.arctan2(rotation[..., 2, 0], rotation[..., 2, 2])
    pitch = np.arcsin(np.clip(-rotation[..., 2, 1], -1, 1))
    roll = np.arctan2(-rotation[..., 0, 1], rotation[..., 1, 1])
    return np.rad2deg(np.stack([yaw, pitch, roll], axis=-1))


def head_pose(landmarks_px: Landmarks) -> Float[np.ndarray, "*f 3"]:
    """(yaw, pitch, roll) of each frame in degrees, against a frontal average face; signs as `euler_degrees`."""
    return euler_degrees(fit_pose(landmarks_px).rotation)


def yaw(landmarks_px: Landmarks) -> Float[np.ndarray, "*f"]:
    """Degrees by which the head turns to image right."""
    return head_pose(landmarks_px)[..., 0]


def face_axes(landmarks_px: Float[np.ndarray, "*f 478 d"]) -> tuple[np.ndarray, np.ndarray]:
    """The face's own axes in the image: unit vectors `*f 2` along the eyes and down the face; depth is not read."""
    right, left = _middle(landmarks_px, EYE_CORNERS[:2]), _middle(landmarks_px, EYE_CORNERS[2:])
    across = left - right
    across = across / np.maximum(np.linalg.norm(across, axis=-1, keepdims=True), 1e-6)
    return across, np.stack([-across[..., 1], across[..., 0]], axis=-1)


def mouth_opening(landmarks_px: Float[np.ndarray, "*f 478 d"]) -> Float[np.ndarray, "*f"]:
    """Gap of the inner lips over the height from the eyes to the mouth's corners, both along the face's down axis.

    Turning the head leaves that axis nearly unchanged and opening the mouth the height, so the value grows in
    proportion to the gap. Only eye corners and inner lips are read, without depth: all others may be NaN.
    """
    _, down = face_axes(landmarks_px)
    gap = _middle(landmarks_px, INNER_LIPS_LOWER) - _middle(landmarks_px, INNER_LIPS_UPPER)
    height = _middle(landmarks_px, MOUTH_CORNERS) - _middle(landmarks_px, EYE_CORNERS)
    return np.asarray((gap * down).sum(-1) / np.maximum((height * down).sum(-1), 1e-6))


def eye_opening(landmarks_px: Float[np.ndarray, "*f 478 d"]) -> Float[np.ndarray, "*f 2"]:
    """Mean distance of the lids as a fraction of the eye's width; the subject's right eye, then the left."""
    gaps = [_lid_gap(landmarks_px, eye.lids) for eye in EYES]
    widths = [_distance(landmarks_px, *eye.corners) for eye in EYES]
    return np.stack(gaps, -1) / np.maximum(np.stack(widths, -1), 1e-6)


def _lid_gap(landmarks_px: np.ndarray, lids: tuple[tuple[int, int], ...]) -> np.ndarray:
    return np.asarray(np.mean([_distance(landmarks_px, upper, lower) for upper, lower in lids], axis=0))


def _middle(landmarks_px: np.ndarray, points: tuple[int, ...]) -> np.ndarray:
    """Mean place `*f 2` of some points in the image."""
    return landmarks_px[..., index(points), :2].mean(axis=-2, dtype=np.float64)


def _distance(landmarks_px: np.ndarray, first: int, second: int) -> np.ndarray:
    difference = np.subtract(landmarks_px[..., first, :], landmarks_px[..., second, :], dtype=np.float64)
    return np.asarray(np.linalg.norm(difference, axis=-1))
