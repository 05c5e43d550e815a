"""Motion alignment on MediaPipe's metric face mesh, as Follow-Your-Emoji's release does it.

Section 3.2; release `media_pipe/__init__.py` (`FaceMeshAlign`) and `pose_util.py`. The mesh, which stock bindings do not give,
is rebuilt from the landmarks (MediaPipe's face geometry). New shape = the reference's mesh + the driver's offsets from its own
neutral frame, in cm; new pose = the driver's rotation, and its movement since the first frame; then a perspective projection.
Unlike `face.alignment` nothing is measured in units of the face: a driver with larger features moves the portrait more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from portrait_jax.errors import ConfigError, ShapeError, nearest
from portrait_jax.face.alignment import ROTATIONS, neutral_frame
from portrait_jax.face.geometry import VERTICES, FaceGeometry
from portrait_jax.face.topology import EYES, index
from portrait_jax.typing import Float

HALF_VIEW = np.deg2rad(63.0 / 2)
"""Half the vertical field of view of MediaPipe's camera."""
NEAR, FAR = 1.0, 10000.0
_STRETCH = FAR / (FAR - NEAR)
"""The release multiplies by a projection matrix that lacks a factor and is not transposed; this is all that is left of it."""
_FLAT = 1e-6
"""Eye boxes lower than this many pixels count as this high: the release divides by zero where an eye is quite closed."""

Size = tuple[int, int]
"""(width, height) of a picture in pixels."""


class MetricFace(NamedTuple):
    """Faces as MediaPipe measures them.

    Attributes:
        mesh: cm in the face's own frame (x to the subject's left, y up, z to the camera); identity and expression, no pose.
        rotation, translation: face → camera that looks along −z.
    """

    mesh: Float[np.ndarray, "*f 468 3"]
    rotation: Float[np.ndarray, "*f 3 3"]
    translation: Float[np.ndarray, "*f 3"]


def metric_face(landmarks_px: Float[np.ndarray, "*f 478 3"], size: Size, geometry: FaceGeometry) -> MetricFace:
    """Rebuilds the mesh and its pose from landmarks of pictures of `size`.

    The landmarks' depth is relative and their perspective weak; two fits of the canonical face find the scale at which the
    points, moved along their lines of sight, are in cm.
    """
    width, height = size
    tall = 2 * NEAR * np.tan(HALF_VIEW)
    wide = tall * width / height
    points = np.asarray(landmarks_px, np.float64)[..., :VERTICES, :] / [width, height, width]
    points = (points * [1, -1, 1] + [-0.5, 0.5, 0]) * [wide, tall, wide]
    depth = points[..., 2:] - points[..., 2:].mean(-2, keepdims=True) + NEAR

    def along_sight(scale: np.ndarray) -> np.ndarray:
        z = depth / scale
        return np.concatenate([points[..., :2] * z / NEAR, -z], axis=-1)

    first = _scale(similarity(geometry, points * [1, 1, -1]))
    second = _scale(similarity(geometry, along_sight(first)))
    placed = along_sight(first * second)
    pose = similarity(geometry, placed)
    inverse = np.linalg.inv(pose)
    mesh = placed @ np.swapaxes(inverse[..., :3, :3], -1, -2) + inverse[..., None, :3, 3]
    return MetricFace(mesh, pose[..., :3, :3] / _scale(pose), pose[..., :3, 3])


def similarity(geometry: FaceGeometry, target: Float[np.ndarray, "*f 468 3"]) -> Float[np.ndarray, "*f 4 4"]:
    """The weighted least-squares similarity of the canonical face onto each target: scale · rotation and translation."""
    source, weights = geometry.vertices, geometry.weights[:, None]
    total = weights.sum()
    centred = source - (weights * source).sum(0) / total
    covariance = np.swapaxes(weights * target, -1, -2) @ centred
    left, _, right = np.linalg.svd(covariance)
    proper = np.ones(covariance.shape[:-1])
    proper[..., 2] = np.sign(np.linalg.det(left @ right))  # A rotation, never a mirror image.
    rotation = (left * proper[..., None, :]) @ right
    scale = (rotation * covariance).sum((-1, -2)) / (weights * centred * source).sum()
    pose = np.zeros((*covariance.shape[:-2], 4, 4))
    pose[..., :3, :3] = scale[..., None, None] * rotation
    pose[..., :3, 3] = (weights * (target - source @ np.swapaxes(pose[..., :3, :3], -1, -2))).sum(-2) / total
    pose[..., 3, 3] = 1
    return pose


def _scale(pose: Float[np.ndarray, "*f 4 4"]) -> Float[np.ndarray, "*f 1 1"]:
    return np.linalg.norm(pose[..., :3, :1], axis=-2, keepdims=True)


def project(camera: Float[np.ndarray, "*f 468 3"], size: Size) -> Float[np.ndarray, "*f 468 2"]:
    """Points in the camera's frame (cm) → pixels of a picture of `size`."""
    width, height = size
    focal = np.float32(1 / np.tan(HALF_VIEW))
    # The release keeps its matrix in float32 and everything else in float64.
    across, down = float(np.float32(focal / np.float32(width / height))), float(focal)
    depth = np.maximum(-float(np.float32(_STRETCH)) * camera[..., 2], NEAR * 1e-3)
    u = (across * camera[..., 0] / depth + 1) / 2 * width
    v = (-down * camera[..., 1] / depth + 1) / 2 * height
    return np.stack([u, v], axis=-1)


@dataclass(frozen=True, eq=False)
class MetricAlignment:
    """One driver's motion on one reference face; settled by the whole clip, then applied to any of its frames.

    Attributes:
        reference: the portrait's face.
        neutral: the driver's mesh in its neutral frame.
        first: the driver's face in the clip's first frame.
        driving_size, reference_size: of the pictures.
        mode: "absolute" takes the driver's rotation as it is (the release), "relative" adds its change to the portrait's.
    """

    geometry: FaceGeometry
    reference: MetricFace
    neutral: Float[np.ndarray, "468 3"]
    first: MetricFace
    driving_size: Size
    reference_size: Size
    mode: str = "absolute"

    @classmethod
    def of(
        cls,
        driving: Float[np.ndarray, "f 478 3"],
        driving_size: Size,
        reference: Float[np.ndarray, "478 3"],
        reference_size: Size,
        geometry: FaceGeometry,
        *,
        neutral_index: int | None = None,
        mode: str = "absolute",
    ) -> MetricAlignment:
        """Measures both faces.

        Args:
            driving, reference: landmarks in pixels of their own pictures.
            neutral_index: the driver's frame that corresponds to the reference's expression, in the release the one with
                the least sum of blendshape scores; None lets `face.alignment.neutral_frame` choose.

        Raises:
            ConfigError: an unknown mode. ShapeError: no driving frames.
        """
        if mode not in ROTATIONS:
            raise ConfigError(f"unknown rotation mode '{mode}'{nearest(mode, ROTATIONS)}")
        if len(driving) == 0:
            raise ShapeError("there are no driving frames to align; give a sequence with at least one")
        chosen = neutral_frame(driving) if neutral_index is None else neutral_index
        neutral = metric_face(driving[chosen], driving_size, geometry).mesh
        first = metric_face(driving[0], driving_size, geometry)
        portrait = metric_face(reference, reference_size, geometry)
        return cls(geometry, portrait, neutral, first, driving_size, reference_size, mode)

    def __call__(self, driving: Float[np.ndarray, "f 478 3"]) -> Float[np.ndarray, "f 478 2"]:
        """The reference's landmarks, in pixels of the portrait, as the driver moves in these frames of the clip."""
        faces = metric_face(driving, self.driving_size, self.geometry)
        return self.place(faces, driving)

    def place(self, faces: MetricFace, driving: Float[np.ndarray, "f 478 d"]) -> Float[np.ndarray, "f 478 2"]:
        """As a call, for driving faces that are measured already; of `driving` the eyes alone are read."""
        shape = faces.mesh - self.neutral + self.reference.mesh
        turned = shape @ np.swapaxes(self._rotation(faces.rotation), -1, -2)
        moved = faces.translation - self.first.translation + self.reference.translation
        points = project(turned + moved[..., None, :], self.reference_size)
        irises = [_iris(driving[..., :2], points, eye.contour, eye.iris) for eye in EYES]
        return np.concatenate([points, *irises], axis=-2)

    def _rotation(self, rotation: np.ndarray) -> np.ndarray:
        if self.mode == "absolute":
            return rotation
        return rotation @ self.first.rotation.T @ self.reference.rotation


def _iris(driving: np.ndarray, points: np.ndarray, contour: tuple[int, ...], iris: tuple[int, ...]) -> np.ndarray:
    """Puts an iris where it lies in the driver's eye box, each axis by itself."""
    eye, new = driving[..., index(contour), :], points[..., index(contour), :]
    low, size = eye.min(-2), np.maximum(np.ptp(eye, axis=-2), _FLAT)
    place = (driving[..., index(iris), :] - low[..., None, :]) / size[..., None, :]
    return new.min(-2)[..., None, :] + place * np.ptp(new, axis=-2)[..., None, :]
