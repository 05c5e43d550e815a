"""From a person, a pose and an expression to a picture with its exact ground truth."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from data.synthetic import paint_body, paint_extras, paint_face, paint_hair
from data.synthetic.canvas import Canvas
from data.synthetic.features import build
from data.synthetic.head import HeadShape, View
from data.synthetic.identity import Identity, identity_attributes
from data.synthetic.landmarks import project_landmarks
from data.synthetic.paint_backdrop import paint_backdrop
from data.synthetic.performance import Performance
from data.synthetic.topology import OVAL

MIN_SIZE, MAX_SIZE = 32, 2048
MIN_CANVAS = 256  # smaller pictures are painted at this size or twice their own and averaged down


@dataclass(frozen=True)
class Frame:
    """One picture (`image` uint8 `size size 3`) with ground truth in pixels: `landmarks (478, 3)`, `face_box (4,)`
    x0 y0 x1 y1 about the landmarks, `face_mask` bool inside the painted face outline."""

    image: np.ndarray
    landmarks: np.ndarray
    face_box: np.ndarray
    face_mask: np.ndarray


def render(identity: Identity, pose: np.ndarray, expression: np.ndarray, size: int, *, time: float = 0.0) -> Frame:
    """Paints one frame.

    Args:
        identity: the person.
        pose: yaw, pitch, roll in degrees, x, y (head centre) and scale (face width) in image sides.
        expression: `(E,)` in the order of `EXPRESSION_NAMES`.
        size: picture side in pixels, 32..2048.
        time: seconds since the clip began; moves backgrounds and hair.
    """
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise ValueError(f"size must be {MIN_SIZE}..{MAX_SIZE} pixels, got {size}")
    factor = max(1, -(-MIN_CANVAS // size))
    canvas = Canvas(size * factor)
    shape, view = HeadShape.of(identity.traits), View.of(pose)
    features = build(identity, shape, expression)
    landmarks = project_landmarks(features, shape, view)
    outline = landmarks[list(OVAL)]
    scene = paint_face.Scene(canvas, identity, shape, features, view, outline, float(time))
    _paint(scene)
    image = canvas.image if factor == 1 else cv2.resize(canvas.image, (size, size), interpolation=cv2.INTER_AREA)
    pixels = (landmarks * size).astype(np.float32)
    low, high = pixels[:, :2].min(0), pixels[:, :2].max(0)
    return Frame(image, pixels, np.concatenate([low, high]), _face_mask(outline, size))


def _paint(scene: paint_face.Scene) -> None:
    """Back to front."""
    paint_backdrop(scene.canvas, scene.identity, scene.time)
    paint_hair.paint_back_hair(scene)
    paint_body.paint_neck(scene)
    paint_body.paint_clothes(scene)
    paint_face.paint_ears(scene)
    paint_face.paint_skin(scene)
    paint_face.paint_outline(scene)
    paint_extras.paint_beard(scene)
    paint_face.paint_mouth(scene)
    paint_face.paint_nose(scene)
    paint_face.paint_eyes(scene)
    paint_extras.paint_temples(scene)
    paint_hair.paint_front_hair(scene)
    paint_extras.paint_hat(scene)
    paint_face.paint_brows(scene)
    paint_extras.paint_glasses(scene)


def _face_mask(outline: np.ndarray, size: int) -> np.ndarray:
    mask = np.zeros((size, size), np.uint8)
    cv2.fillPoly(mask, [np.rint((outline[:, :2] * size - 0.5) * 16).astype(np.int32)], 1, cv2.LINE_8, 4)
    return mask.astype(bool)


def render_clip(identity: Identity, performance: Performance, size: int) -> dict[str, np.ndarray]:
    """Paints a performance; the raw form of a clip record.

    Returns: frames uint8 `f h w 3`, landmarks float32 `f 478 3` px, face_box float32 `f 4` px, face_mask bool `f h w`,
    pose float32 `f 6`, expression float32 `f E`, audio int16 `n` at 16 kHz, fps float32, attributes float32 `A`.
    """
    shots = [
        render(identity, pose, expression, size, time=i / performance.fps)
        for i, (pose, expression) in enumerate(zip(performance.pose, performance.expression, strict=True))
    ]
    return {
        "frames": np.stack([s.image for s in shots]),
        "landmarks": np.stack([s.landmarks for s in shots]),
        "face_box": np.stack([s.face_box for s in shots]),
        "face_mask": np.stack([s.face_mask for s in shots]),
        "pose": performance.pose,
        "expression": performance.expression,
        "audio": performance.audio,
        "fps": np.float32(performance.fps),
        "attributes": identity_attributes(identity),
    }
