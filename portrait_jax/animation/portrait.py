"""The portrait: a picture, the face in it, and the square that the system sees.

Framings: "face", the square around the face; "whole", the whole picture on black bars, as Follow-Your-Emoji's release
frames it (`dataset/val_dataset.py`), which sees the face as large as the picture shows it; "box", the square of twice the
face's box, as X-NeMo's release cuts it (`face.boxes.portrait_square`); "wide", the largest square in three times the face's
box, as HunyuanPortrait's release does (`face.squares.source_crop`); and "cover", for systems that make pictures wider than
high, as Hallo3's release fits wide pictures to them (`hallo3/sample_video.py`): scaled to cover the frame, and cut in the middle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from PIL import Image as PillowImage

from portrait_jax.errors import ConfigError, InputFileError, NoFaceError, nearest
from portrait_jax.face.alignment import load_landmarks
from portrait_jax.face.boxes import detector_box, portrait_crop, portrait_square, sides
from portrait_jax.face.by_hand import complete, load_points
from portrait_jax.face.crops import face_box, square_crop
from portrait_jax.face.detector import FaceDetector, model_path
from portrait_jax.face.geometry import load_geometry
from portrait_jax.face.squares import source_crop
from portrait_jax.face.topology import NUM_LANDMARKS
from portrait_jax.media.files import FilePath
from portrait_jax.media.image import read_image, resize
from portrait_jax.typing import Image, Int, Landmarks, UInt8

MARGIN, LIFT = 0.51, 0.0
"""Room on each side of the face, in face sizes, and its middle's height: as in the procedural portraits."""
FRAMINGS = ("face", "whole", "box", "wide", "cover")


class Portrait(NamedTuple):
    """A square picture (with the framing "cover" a wide one) and its landmarks in its pixels.

    `picture` and `picture_landmarks` are what it was made from, as read from the file; None: the square itself. `place` is
    the part of `picture` that the square shows (left, top, right, bottom), where it shows such a part and nothing else.
    """

    image: Image
    landmarks: Landmarks
    picture: Image | None = None
    picture_landmarks: Landmarks | None = None
    place: Int[np.ndarray, "4"] | None = None

    @property
    def whole(self) -> tuple[Image, Landmarks]:
        """The picture that the square was made from, and its landmarks."""
        if self.picture is None or self.picture_landmarks is None:
            return self.image, self.landmarks
        return self.picture, self.picture_landmarks


def nobody(height: int, width: int) -> Portrait:
    """What stands in for the portrait where a prompt alone says who it is: a grey picture without a face."""
    return Portrait(np.full((height, width, 3), 128, np.uint8), np.zeros((NUM_LANDMARKS, 3), np.float32))


class Placement(NamedTuple):
    """Where a scaled picture lies in the square: its `scale` across and down, and its corner."""

    scale: tuple[float, float]
    corner: tuple[int, int]

    def apply_landmarks(self, landmarks_px: Landmarks) -> Landmarks:
        """Pixels of the picture → pixels of the square; depth scales like x."""
        across, down = self.scale
        moved = np.asarray(landmarks_px) * np.array([across, down, across]) + np.array([*self.corner, 0])
        return moved.astype(np.float32)


def load_portrait(
    path: FilePath,
    size: int,
    *,
    landmarks: FilePath | None = None,
    detector: FaceDetector | None = None,
    framing: str = "face",
    frame: tuple[int, int] | None = None,
    bundle: Callable[[], Path] = model_path,
) -> Portrait:
    """Reads a picture, finds the face (or takes it from `landmarks`), and makes the square that the system sees.

    A picture that already is `size`×`size` is taken as it is, but for the framings "box" and "wide".

    Args:
        path: any image file; an alpha channel goes over white.
        size: side of the result in pixels.
        landmarks: for faces that MediaPipe does not see, in pixels of the picture: a landmark file of one frame, or points set
            by hand (`.json`, `face.by_hand`).
        detector: needed without `landmarks`. With the framing "whole" it looks at the square, as the release does.
        framing: "face" cuts a square around the face, "whole" puts the picture on black bars, "box" cuts the square of twice the
            face's box, "wide" the largest square in three times the box, "cover" fits pictures that are wider than high to
            `frame` and does with others as "whole".
        frame: (height, width) in pixels, for "cover"; None: a square.
        bundle: where MediaPipe's face model is; only called for points set by hand.

    Raises:
        InputFileError: unreadable files, or landmarks made for a picture of another size.
        NoFaceError, MultipleFacesError: from the detector.
        ConfigError: an unknown framing.
    """
    if framing not in FRAMINGS:
        raise ConfigError(f"sampling.framing '{framing}' is not known{nearest(framing, FRAMINGS)}")
    image = read_image(path)
    points = None if landmarks is None else _given(landmarks, image, path, bundle)
    if points is None and detector is None:
        raise InputFileError(f"nobody says where the face of {path} is; give its landmarks or a face detector")
    wide = image.shape[1] > image.shape[0]
    if framing == "whole" or (framing == "cover" and not wide):
        square, placement = on_bars(image, size)
        seen = _detected(detector, square, path) if points is None else placement.apply_landmarks(points)
        return Portrait(square, seen)
    points = _detected(detector, image, path) if points is None else points
    if framing in CUTS:
        return CUTS[framing](image, points, size)
    if framing == "cover":
        covered, placement = covering(image, *(frame or (size, size)))
        return Portrait(covered, placement.apply_landmarks(points), image, points)
    if image.shape[:2] == (size, size):
        return Portrait(image, points)
    crop = square_crop(face_box(points), MARGIN, image.shape[:2], LIFT)
    place = np.array([crop.x0, crop.y0, crop.x0 + crop.size, crop.y0 + crop.size])
    inside = (place[:2] >= 0).all() and (place[2:] <= image.shape[1::-1]).all()
    return Portrait(
        crop.apply(image, size), crop.apply_landmarks(points, size), image, points, place if inside else None
    )


def _boxed(image: Image, points: Landmarks, size: int) -> Portrait:
    square = portrait_square(detector_box(points), image.shape[:2])
    across, down = (size / side for side in sides(square.box))
    moved = (points[..., :2] + square.padding - square.box[:2]) * (across, down)
    landmarks = np.concatenate([moved, points[..., 2:] * across], axis=-1).astype(np.float32)
    return Portrait(portrait_crop(image, square, size), landmarks, image, points)


def _wide(image: Image, points: Landmarks, size: int) -> Portrait:
    source = source_crop(image, face_box(points), size)
    left, top, right, _ = (int(edge) for edge in source.square)
    moved = (points - np.array([left, top, 0])) * (size / (right - left))
    return Portrait(source.image, moved.astype(np.float32), image, points, source.square)


CUTS: Mapping[str, Callable[[Image, Landmarks, int], Portrait]] = MappingProxyType({"box": _boxed, "wide": _wide})
"""Framings that cut any picture, also one that has the right size."""


def on_bars(image: Image, size: int) -> tuple[UInt8[np.ndarray, "{size} {size} 3"], Placement]:
    """The whole picture in a square of `size` pixels, bicubic, on black; sides are cut down to whole pixels, and one
    that is odd lies half a pixel off the middle, as in the release."""
    height, width = image.shape[:2]
    scale = min(size / width, size / height)
    inner = max(int(width * scale), 1), max(int(height * scale), 1)
    scaled = PillowImage.fromarray(image).resize(inner, PillowImage.Resampling.BICUBIC)
    left, top = inner[0] // 2 - size // 2, inner[1] // 2 - size // 2
    square = np.array(scaled.crop((left, top, left + size, top + size)))
    return square, Placement((inner[0] / width, inner[1] / height), (-left, -top))


def covering(image: Image, height: int, width: int) -> tuple[UInt8[np.ndarray, "{height} {width} 3"], Placement]:
    """The middle of a picture that is scaled, bicubic, so that it just covers `height`×`width` pixels."""
    high, wide = image.shape[:2]
    scale = max(height / high, width / wide)
    rows, columns = max(round(high * scale), height), max(round(wide * scale), width)
    top, left = (rows - height) // 2, (columns - width) // 2
    scaled = resize(image, rows, columns, "bicubic")
    return scaled[top : top + height, left : left + width], Placement((columns / wide, rows / high), (-left, -top))


def is_by_hand(landmarks: FilePath | None) -> bool:
    """Whether a file of landmarks holds points set by hand."""
    return landmarks is not None and Path(landmarks).suffix.lower() == ".json"


def _given(landmarks: FilePath, image: Image, path: FilePath, bundle: Callable[[], Path]) -> Landmarks:
    if is_by_hand(landmarks):
        return complete(load_points(landmarks), load_geometry(bundle()))
    height, width = image.shape[:2]
    stored = load_landmarks(landmarks)
    if (stored.height, stored.width) != (height, width):
        raise InputFileError(
            f"{landmarks} holds landmarks of a {stored.width}×{stored.height} picture, but {path} is {width}×{height}; "
            "give the picture that they were found in, or find them anew in this one"
        )
    return stored.landmarks[0]


def _detected(detector: FaceDetector | None, image: Image, path: FilePath) -> Landmarks:
    assert detector is not None
    try:
        return detector.detect(image, path).landmarks_px
    except NoFaceError as error:
        raise NoFaceError(f"{error}; or give its landmarks by --portrait_landmarks (docs/animate.md)") from error
