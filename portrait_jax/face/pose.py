"""Bodies in real pictures: MediaPipe's PoseLandmarker, which gives HunyuanPortrait's skeletons. Its model is the user's to name."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from portrait_jax.errors import InputFileError
from portrait_jax.face import detector
from portrait_jax.face.skeleton import JOINTS, Sequence12, from_mediapipe
from portrait_jax.media.files import FilePath, checked_input
from portrait_jax.typing import Float, Image, UInt8

MODEL_URL = "https://storage.googleapis.com/mediapipe-models/pose_landmarker/pose_landmarker_full/float16/1/pose_landmarker_full.task"
MODEL_VARIABLE = "PORTRAIT_POSE_LANDMARKER"


class PoseDetector:
    """Finds the joints of the one body of a picture; each picture is seen alone.

    Args:
        path: a `pose_landmarker_*.task` bundle; None looks at $PORTRAIT_POSE_LANDMARKER.

    Raises:
        PortraitError: there is no such file, or MediaPipe or a system library is missing.
    """

    def __init__(self, path: FilePath | None = None) -> None:
        self._landmarker = detector.open_landmarker(
            "PoseLandmarker",
            model_path(path),
            lambda vision, base: vision.PoseLandmarkerOptions(base_options=base),
            MODEL_URL,
        )

    def __enter__(self) -> PoseDetector:
        return self

    def __exit__(self, *_: object) -> None:
        self._landmarker.close()

    def detect(self, image: Image) -> Float[np.ndarray, "12 2"]:
        """Joints in pixels of an RGB picture; all NaN where nobody is seen."""
        bodies = self._landmarker.detect(detector.as_mediapipe(image)).pose_landmarks
        if not bodies:
            return np.full((len(JOINTS), 2), np.nan, np.float32)
        height, width = image.shape[:2]
        points = np.array([[(point.x * width, point.y * height) for point in bodies[0]]], np.float32)
        return from_mediapipe(points, np.array([[point.visibility for point in bodies[0]]], np.float32))[0]

    def detect_video(self, frames: Iterable[UInt8[np.ndarray, "_ _ 3"]]) -> Sequence12:
        """Joints of every frame."""
        return np.stack([self.detect(frame) for frame in frames])


def model_path(path: FilePath | None = None) -> Path:
    """Where the pose model lies: the argument or $PORTRAIT_POSE_LANDMARKER; it is not downloaded.

    Raises:
        InputFileError: it is not named, or not there.
    """
    named = path or os.environ.get(MODEL_VARIABLE)
    if not named:
        raise InputFileError(
            "skeletons are found in pictures by MediaPipe's pose model, and none is named; give --pose_landmarker or "
            f"${MODEL_VARIABLE} (from {MODEL_URL}), or a stored skeleton sequence (.npz)"
        )
    return checked_input(named, "pose model")
