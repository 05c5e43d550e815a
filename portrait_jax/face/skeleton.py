"""Skeletons of the upper body: made, moved onto a portrait, drawn (HunyuanPortrait, arXiv 2503.18860, section 3.5).

A sequence is an array "f 12 2" of pixels, NaN where a joint is not seen. The paper draws DWPose's skeletons; which joints and
how thick is open and chosen here: no face mesh, no hands, limbs as filled ellipses on a colour wheel.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np

from portrait_jax.errors import ConfigError, ShapeError
from portrait_jax.typing import Bool, Float, UInt8

JOINTS = (
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
    "right_eye", "left_eye", "right_ear", "left_ear",
)  # fmt: skip
"""Left and right are the person's."""
LIMBS = (
    ("neck", "right_shoulder"), ("neck", "left_shoulder"), ("right_shoulder", "right_elbow"), ("right_elbow", "right_wrist"),
    ("left_shoulder", "left_elbow"), ("left_elbow", "left_wrist"), ("neck", "nose"), ("nose", "right_eye"),
    ("right_eye", "right_ear"), ("nose", "left_eye"), ("left_eye", "left_ear"), ("nose", "right_ear"), ("nose", "left_ear"),
)  # fmt: skip
"""Ears hang on the nose where there are no eyes."""
EYES = ("right_eye", "left_eye")
MEDIAPIPE = {
    "nose": (0,), "neck": (11, 12), "right_shoulder": (12,), "right_elbow": (14,), "right_wrist": (16,),
    "left_shoulder": (11,), "left_elbow": (13,), "left_wrist": (15,), "right_eye": (5,), "left_eye": (2,),
    "right_ear": (8,), "left_ear": (7,),
}  # fmt: skip
"""Joint → the landmarks of MediaPipe's pose whose mean it is."""
FACE = {"nose": (4,), "right_eye": (33, 133), "left_eye": (362, 263), "right_ear": (234,), "left_ear": (454,)}
"""Joint → the landmarks of a face whose mean it is; ears lie where the face's oval is widest."""
LENGTHS = (
    (("right_shoulder", "left_shoulder"), ("nose", "neck")),
    (("right_eye", "left_eye"), ("right_ear", "left_ear")),
)
"""What a body is measured by; the second line where not both bodies show something of the first."""
VISIBLE = 0.5
"""Visibility from which a landmark of MediaPipe counts as seen."""
THICKNESS = 4 / 512
"""Half the width of a limb, and a joint's radius, per pixel of the picture's side."""

Sequence12 = Float[np.ndarray, "f 12 2"]


def from_mediapipe(
    landmarks_px: Float[np.ndarray, "f 33 d"], visibility: Float[np.ndarray, "f 33"] | None = None
) -> Sequence12:
    """Joints from the 33 landmarks of MediaPipe's pose, in pixels; those of too little `visibility` are not seen."""
    points = np.array(landmarks_px[..., :2], np.float32)
    if visibility is not None:
        points[visibility < VISIBLE] = np.nan
    return np.stack([points[:, MEDIAPIPE[name]].mean(axis=1) for name in JOINTS], axis=1)


def from_face(landmarks_px: Float[np.ndarray, "478 d"]) -> Float[np.ndarray, "12 2"]:
    """What a face's landmarks tell of a skeleton: nose, eyes and ears, of a portrait whose body nobody has measured."""
    points = np.full((len(JOINTS), 2), np.nan, np.float32)
    for name, numbers in FACE.items():
        points[JOINTS.index(name)] = landmarks_px[list(numbers), :2].mean(axis=0)
    return points


def aligned(driving: Sequence12, source: Float[np.ndarray, "12 2"]) -> Sequence12:
    """The driver's joints on the portrait: noses of the first frame lie on each other, sizes are brought to each other's.

    The size is the mean of the shoulders' distance and of that from nose to neck, of the first frame; where not both show one of
    these, that of the eyes' and the ears' distances.

    Raises:
        ShapeError: if the nose is not seen, or no length in both.
    """
    first, nose = driving[0], JOINTS.index("nose")
    if np.isnan(first[nose]).any() or np.isnan(source[nose]).any():
        raise ShapeError("skeletons are laid on each other by their noses, which one of them does not show")
    for pairs in LENGTHS:
        lengths = np.stack([_lengths(first, pairs), _lengths(source, pairs)])
        known = np.isfinite(lengths).all(0) & (lengths[0] > 0)
        if known.any():
            ratio = lengths[1, known].mean() / lengths[0, known].mean()
            return (source[nose] + ratio * (driving - first[nose])).astype(np.float32)
    raise ShapeError(
        "neither shoulders or neck nor eyes or ears are seen in both the portrait's and the driver's first skeleton"
    )


def _lengths(points: Float[np.ndarray, "12 2"], pairs: Sequence[tuple[str, str]]) -> Float[np.ndarray, " n"]:
    """Distances of pairs of joints."""
    return np.array([np.linalg.norm(points[JOINTS.index(a)] - points[JOINTS.index(b)]) for a, b in pairs])


def without_eyes(skeletons: Sequence12) -> Sequence12:
    """For a driver who is somebody else: where the eyes lie says whose face it is."""
    left = skeletons.copy()
    left[:, [JOINTS.index(name) for name in EYES]] = np.nan
    return left


def random_limbs(rng: np.random.Generator, drop: float) -> Bool[np.ndarray, " n"]:
    """Which limbs of a training clip are drawn: each is left out with probability `drop`; raises ConfigError outside 0..1."""
    if not 0 <= drop <= 1:
        raise ConfigError(f"limbs are left out with a probability in 0..1, not {drop}")
    return rng.random(len(LIMBS)) >= drop


def draw_skeleton(
    points_px: Float[np.ndarray, "12 2"], height: int, width: int, limbs: Sequence[bool] | np.ndarray | None = None
) -> UInt8[np.ndarray, "{height} {width} 3"]:
    """Limbs and their joints on black. `limbs` says which of `LIMBS` are drawn; None: all that are seen."""
    canvas = np.zeros((height, width, 3), np.uint8)
    radius = max(1, round(THICKNESS * min(height, width)))
    eyes = {name for name in EYES if np.isfinite(points_px[JOINTS.index(name)]).all()}
    for number, (one, other) in enumerate(LIMBS):
        ends = points_px[[JOINTS.index(one), JOINTS.index(other)]]
        side = other.split("_")[0]
        doubled = one == "nose" and other.endswith("ear") and f"{side}_eye" in eyes
        if doubled or not np.isfinite(ends).all() or (limbs is not None and not limbs[number]):
            continue
        colour = [round(255 * part) for part in colorsys.hsv_to_rgb(number / len(LIMBS), 1.0, 1.0)]
        _ellipse(canvas, ends, radius, colour)
    return canvas


def _ellipse(canvas: np.ndarray, ends: Float[np.ndarray, "2 2"], radius: int, colour: list[int]) -> None:
    (x, y), (dx, dy) = ends.mean(0), ends[1] - ends[0]
    far = 4 * max(canvas.shape)
    if max(abs(x), abs(y), abs(dx), abs(dy)) > far:
        return
    axes = (round(float(np.hypot(dx, dy)) / 2), radius)
    outline = cv2.ellipse2Poly((round(float(x)), round(float(y))), axes, int(np.degrees(np.arctan2(dy, dx))), 0, 360, 5)
    cv2.fillConvexPoly(canvas, outline, colour)
    for end in ends:
        cv2.circle(canvas, (round(float(end[0])), round(float(end[1]))), radius, colour, cv2.FILLED)
