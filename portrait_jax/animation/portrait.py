"""The portrait: a picture, the face in it, and the square that the system sees."""

from __future__ import annotations

from typing import NamedTuple

from portrait_jax.errors import InputFileError
from portrait_jax.face.alignment import load_landmarks
from portrait_jax.face.crops import face_box, square_crop
from portrait_jax.face.detector import FaceDetector
from portrait_jax.media.files import FilePath
from portrait_jax.media.image import read_image
from portrait_jax.typing import Image, Landmarks

MARGIN, LIFT = 0.51, 0.0
"""Room on each side of the face, in face sizes, and its middle's height: as in the procedural portraits."""


class Portrait(NamedTuple):
    """A square picture and its landmarks in pixels of that square."""

    image: Image
    landmarks: Landmarks


def load_portrait(
    path: FilePath, size: int, *, landmarks: FilePath | None = None, detector: FaceDetector | None = None
) -> Portrait:
    """Reads a picture, finds the face (or takes it from `landmarks`), crops a square around it and resizes.

    A picture that already is `size`×`size` is taken as it is.

    Args:
        path: any image file; an alpha channel goes over white.
        size: side of the result in pixels.
        landmarks: a landmark file of one frame in pixels of the picture, for faces that MediaPipe does not see.
        detector: needed without `landmarks`.

    Raises:
        InputFileError: unreadable files, or landmarks made for a picture of another size.
        NoFaceError, MultipleFacesError: from the detector.
    """
    image = read_image(path)
    height, width = image.shape[:2]
    if landmarks is not None:
        stored = load_landmarks(landmarks)
        if (stored.height, stored.width) != (height, width):
            raise InputFileError(
                f"{landmarks} holds landmarks of a {stored.width}×{stored.height} picture, but {path} is {width}×{height}; "
                "give the picture that they were found in, or find them anew in this one"
            )
        points = stored.landmarks[0]
    elif detector is not None:
        points = detector.detect(image, path).landmarks_px
    else:
        raise InputFileError(f"nobody says where the face of {path} is; give its landmarks or a face detector")
    if (height, width) == (size, size):
        return Portrait(image, points)
    crop = square_crop(face_box(points), MARGIN, (height, width), LIFT)
    return Portrait(crop.apply(image, size), crop.apply_landmarks(points, size))
