"""Motion alignment: one person's head and expression on another person's face, from landmarks alone.

Follow-Your-Emoji, section 3.2 (expression-aware landmarks), and its release, `FaceMeshAlign`, in weak perspective. New
shape = the reference's shape + the driver's offsets from its own neutral frame; new pose = the driver's rotation, and
its movement since the first frame. Unlike the release, offsets are measured in units of the face, those of an eye in
units of that eye, so that a blink closes an eye of any size, and those of the mouth between face and mouth.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from portrait_jax.errors import ConfigError, InputFileError, ShapeError, nearest
from portrait_jax.face.measures import RIGID_POINTS, Pose, eye_opening, fit_pose, head_pose, mouth_opening
from portrait_jax.face.topology import EYES, LIP_PAIRS, LIPS, MOUTH_CORNERS, NUM_LANDMARKS, index
from portrait_jax.media.arrays import read_arrays
from portrait_jax.media.files import FilePath, atomic_output, checked_input
from portrait_jax.typing import Float, Landmarks

ROTATIONS = ("absolute", "relative")
_RATIO_LIMITS = (0.4, 2.5)
"""Bounds on how much less or more a part of the reference moves than the driver's: beyond lies a bad detection."""
_FLAT_EYE = 0.06
"""Eye boxes lower than this fraction of their width count as this high, so that a closed eye divides by no zero."""
_PAIRS = np.array([*(pair for eye in EYES for pair in eye.lids), *LIP_PAIRS])
_BLOCK = 64
"""Frames of a clip that are measured or written at once, so that only the clip itself grows with its length."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """One driver's motion on one reference face: settled once by the whole clip, then applied to any of its frames.

        alignment = Alignment.of(driving, reference)
        moved = alignment(driving[100:120])

    Attributes:
        neutral_shape: the driver's neutral face in head coordinates.
        reference_shape: the reference's face, alike.
        ratios: per landmark and axis, how large the reference's part is in units of the driver's.
        first_pose: the driver's pose in the clip's first frame.
        reference_pose: the reference's.
        mode, strength: see `of`.
    """

    neutral_shape: Float[np.ndarray, "478 3"]
    reference_shape: Float[np.ndarray, "478 3"]
    ratios: Float[np.ndarray, "478 3"]
    first_pose: Pose
    reference_pose: Pose
    mode: str
    strength: float | int

    @classmethod
    def of(
        cls,
        driving: Float[np.ndarray, "f 478 3"],
        reference: Float[np.ndarray, "478 3"],
        *,
        neutral_index: int | None = None,
        mode: str = "absolute",
        strength: float | int = 1.0,
    ) -> Alignment:
        """Measures both faces.

        Args:
            driving: the driver's landmarks, the whole clip, in pixels of its own frames.
            reference: the portrait's landmarks in pixels of the portrait.
            neutral_index: the driver's frame that corresponds to the reference's expression; None lets `neutral_frame`
                choose.
            mode: "absolute" takes the driver's head rotation as it is (the release); "relative" adds the driver's
                rotation since its first frame to the reference's own.
            strength: factor on the expression offsets; 0 keeps the reference's expression.

        Raises:
            ConfigError: an unknown mode or a neutral frame outside the clip.
            ShapeError: no driving frames.
        """
        _check(driving, neutral_index, mode)
        neutral = driving[neutral_frame(driving) if neutral_index is None else neutral_index]
        neutral_shape, reference_pose = fit_pose(neutral).remove(neutral), fit_pose(reference)
        reference_shape = reference_pose.remove(reference)
        ratios = _part_ratios(neutral_shape, reference_shape)
        # The driver's own neutral shape fits its other frames better than an average face does.
        first_pose = fit_pose(driving[0], neutral_shape[RIGID_POINTS])
        return cls(neutral_shape, reference_shape, ratios, first_pose, reference_pose, mode, strength)

    def __call__(self, driving: Float[np.ndarray, "f 478 3"]) -> Float[np.ndarray, "f 478 3"]:
        """Moves the reference's landmarks as the driver moves in these frames of the clip.

        Returns:
            Landmarks in pixels of the portrait. In the clip's first frame the face lies where the reference's lies;
            later movement and scaling follow the driver's, in proportion to the faces' sizes.
        """
        poses = fit_pose(driving, self.neutral_shape[RIGID_POINTS])
        shapes = poses.remove(driving)
        offsets = (shapes - self.neutral_shape) * self.ratios
        moved = _uncrossed(self.reference_shape + self.strength * offsets, self.reference_shape)
        _place_irises(moved, shapes)
        return self._place(poses).place(moved).astype(np.float32)

    def _place(self, poses: Pose) -> Pose:
        first, reference = self.first_pose, self.reference_pose
        size = reference.scale / first.scale
        rotation = poses.rotation
        if self.mode == "relative":
            rotation = rotation @ first.rotation.T @ reference.rotation
        translation = reference.translation + (poses.translation - first.translation) * size
        return Pose(poses.scale * size, rotation, translation)


def neutral_frame(driving: Float[np.ndarray, "f 478 3"]) -> int:
    """The frame with the mouth most closed, the head most frontal and the eyes as open as they usually are."""
    parts = [_expression(driving[first : first + _BLOCK]) for first in range(0, len(driving), _BLOCK)]
    mouth, eyes, yaw, pitch = np.concatenate(parts, axis=1)
    usual = max(float(np.median(eyes)), 1e-6)
    turned = np.abs(yaw) + np.abs(pitch - np.median(pitch))
    # A mouth opened by an eighth of its distance from the eyes weighs like a third of a blink or a turn of twenty degrees.
    return int(np.argmin(mouth / 0.125 + np.abs(eyes - usual) / usual * 3 + turned / 20))


def _expression(driving: np.ndarray) -> np.ndarray:
    """Mouth opening, mean eye opening, yaw and pitch (degrees) of each frame: `(4, f)`."""
    pose = head_pose(driving)
    return np.stack([mouth_opening(driving), eye_opening(driving).mean(-1), pose[:, 0], pose[:, 1]])


def _check(driving: np.ndarray, neutral_index: int | None, mode: str) -> None:
    if mode not in ROTATIONS:
        raise ConfigError(f"unknown rotation mode '{mode}'{nearest(mode, ROTATIONS)}")
    if len(driving) == 0:
        raise ShapeError("there are no driving frames to align; give a sequence with at least one")
    if neutral_index is not None and not -len(driving) <= neutral_index < len(driving):
        raise ConfigError(f"neutral frame {neutral_index} lies outside the driving clip of {len(driving)} frames")


def _part_ratios(driver: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Per landmark and axis, how large the reference's part is in units of the driver's: `(478, 3)`, 1 elsewhere."""
    ratios = np.ones((NUM_LANDMARKS, 3))
    # The root is the mean proportion of face and mouth: a smile widens a mouth that is no larger.
    ratios[index(LIPS)] = _ratio(_span(reference, MOUTH_CORNERS), _span(driver, MOUTH_CORNERS)) ** 0.5
    for eye in EYES:
        across = _ratio(_span(reference, eye.corners), _span(driver, eye.corners))
        opening = _ratio(_gap(reference, eye.lids), _gap(driver, eye.lids))
        ratios[index(eye.contour)] = (across, opening, across)
    return ratios


def _ratio(reference: float, driver: float) -> float:
    return float(np.clip(reference / max(driver, 1e-6), *_RATIO_LIMITS))


def _span(shape: np.ndarray, ends: tuple[int, int]) -> float:
    return float(np.linalg.norm(shape[ends[1]] - shape[ends[0]]))


def _gap(shape: np.ndarray, pairs: tuple[tuple[int, int], ...]) -> float:
    upper, lower = np.array(pairs).T
    return float(np.abs(shape[lower, 1] - shape[upper, 1]).mean())


def _uncrossed(moved: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Lids and lips meet in the middle instead of passing each other (further than they do in the reference)."""
    upper, lower = _PAIRS.T
    least = np.minimum(reference[lower, 1] - reference[upper, 1], 0.0)
    excess = np.maximum(least - (moved[:, lower, 1] - moved[:, upper, 1]), 0.0)
    moved = moved.copy()
    moved[:, lower, 1] += excess / 2
    moved[:, upper, 1] -= excess / 2
    return moved


def _place_irises(moved: np.ndarray, driving: np.ndarray) -> None:
    """Puts each iris where it lies in the driver's eye box, as the release, but in head coordinates."""
    for eye in EYES:
        centre, size = _box(driving[:, index(eye.contour)])
        new_centre, new_size = _box(moved[:, index(eye.contour)])
        stretch = new_size / size
        pupil = driving[:, eye.iris[0]]
        new_pupil = new_centre + (pupil - centre) * stretch
        rim = driving[:, index(eye.iris)] - pupil[:, None]
        moved[:, index(eye.iris)] = new_pupil[:, None] + rim * stretch[:, None, :1]


def _box(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre and size `(f, 3)` of eye contours `(f, 16, 3)`; the depth is the mean, scaled like the width."""
    low, high = points.min(1), points.max(1)
    centre, size = (low + high) / 2, high - low
    width = np.maximum(size[:, 0], 1e-6)
    centre[:, 2] = points[..., 2].mean(1)
    return centre, np.stack([width, np.maximum(size[:, 1], _FLAT_EYE * width), width], axis=-1)


class LandmarkSequence(NamedTuple):
    """Stored landmarks of a clip, in pixels of `width`×`height` frames at `fps`."""

    fps: float
    width: int
    height: int
    landmarks: Landmarks
    expression: Float[np.ndarray, " f"] | None = None
    """How much expression each frame shows, if known: the sum of MediaPipe's blendshape scores without "neutral"."""


_MAX_FRAMES, _MAX_BYTES = 200_000, 1 << 30


def save_landmarks(path: FilePath, sequence: LandmarkSequence) -> None:
    """Writes a landmark sequence as a compressed `.npz`, rounded to 1/64 pixel (twice as small on disk)."""
    fields = {"fps": np.array(sequence.fps, np.float64), "size": np.array([sequence.width, sequence.height])}
    if sequence.expression is not None:
        fields["expression"] = np.asarray(sequence.expression, np.float32)
    with atomic_output(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in fields.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, value, allow_pickle=False)
        with archive.open("landmarks.npy", "w", force_zip64=True) as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": sequence.landmarks.shape}
            np.lib.format.write_array_header_1_0(file, header)
            for first in range(0, len(sequence.landmarks), _BLOCK):
                block = sequence.landmarks[first : first + _BLOCK].astype(np.float32)
                file.write((np.round(block * 64) / 64).astype("<f4").tobytes())


def load_landmarks(path: FilePath) -> LandmarkSequence:
    """Reads what `save_landmarks` wrote.

    Raises:
        InputFileError: missing or empty, no landmark file, holding pickles (never executed), too large, or with values
            that are not finite.
    """
    path = checked_input(path, "landmark")
    problem = f"{path} is not a landmark sequence"
    advice = "make one with portrait_jax.face.alignment.save_landmarks"
    stored = read_arrays(
        path, ("landmarks", "fps", "size"), "a landmark sequence", advice, _MAX_BYTES, optional=("expression",)
    )
    landmarks, fps, size, expression = stored["landmarks"], stored["fps"], stored["size"], stored.get("expression")
    if landmarks.ndim != 3 or landmarks.shape[1:] != (NUM_LANDMARKS, 3) or not 0 < len(landmarks) <= _MAX_FRAMES:
        raise InputFileError(f"{problem}: its array is {landmarks.shape}, not (frames, {NUM_LANDMARKS}, 3); {advice}")
    if landmarks.dtype.kind == "f":
        landmarks = landmarks.astype(np.float32, copy=False)
    if landmarks.dtype.kind != "f" or not np.isfinite([landmarks.min(), landmarks.max()]).all():
        raise InputFileError(f"{problem}: it holds values that are not finite numbers; {advice}")
    if fps.shape or size.shape != (2,) or not 0 < float(fps) <= 240 or not ((size > 0) & (size <= 16384)).all():
        raise InputFileError(f"{problem}: frame rate {fps} or size {size} is out of range; {advice}")
    if expression is not None and (expression.shape != landmarks.shape[:1] or not _finite(expression)):
        raise InputFileError(f"{problem}: its expression scores are not one finite number a frame; {advice}")
    return LandmarkSequence(float(fps), int(size[0]), int(size[1]), landmarks, expression)


def _finite(values: np.ndarray) -> bool:
    return values.dtype.kind == "f" and bool(np.isfinite(values).all())
