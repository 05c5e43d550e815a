"""Faces in real pictures: MediaPipe's FaceLandmarker behind one small class.

The only module that imports MediaPipe; `face.pose` opens its landmarker through it.
"""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from portrait_jax.errors import InputFileError, MultipleFacesError, NoFaceError, PortraitError
from portrait_jax.face.topology import NUM_LANDMARKS
from portrait_jax.media.files import FilePath, atomic_output, checked_input
from portrait_jax.typing import Bool, Float, Image, UInt8

# MediaPipe's own log lines mean nothing to a user.
os.environ.setdefault("GLOG_minloglevel", "2")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
try:
    import mediapipe
    from mediapipe.tasks.python import BaseOptions, vision
except (ImportError, OSError) as _error:  # Reported when a detector is made: stored landmarks need no MediaPipe.
    _unavailable: Exception | None = _error
else:
    _unavailable = None

MODEL_URL = (
    "https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/float16/1/face_landmarker.task"
)
MODEL_VARIABLE = "PORTRAIT_FACE_LANDMARKER"
_MIN_BYTES, _MAX_BYTES = 1_000_000, 32_000_000
_MOST_FACES = 8


class Detection(NamedTuple):
    """One face in one picture."""

    landmarks_px: Float[np.ndarray, "478 3"]
    """x right, y down, z away from the camera relative to the head, all in pixels from the top-left corner."""
    blendshapes: Float[np.ndarray, "52"]
    """Scores 0..1 in MediaPipe's order; the first is "neutral"."""
    matrix: Float[np.ndarray, "4 4"]
    """Canonical face (cm) → camera, column vectors."""


class DetectedVideo(NamedTuple):
    """One face over a clip; `found` is False where a gap was filled by interpolation."""

    landmarks_px: Float[np.ndarray, "f 478 3"]
    blendshapes: Float[np.ndarray, "f 52"]
    matrices: Float[np.ndarray, "f 4 4"]
    found: Bool[np.ndarray, " f"]

    @property
    def expression(self) -> Float[np.ndarray, " f"]:
        """How much expression each frame shows: the sum of all scores but the first, "neutral"."""
        return self.blendshapes[:, 1:].sum(axis=1)


class FaceDetector:
    """Finds the one face of a picture.

        with FaceDetector() as detector:
            landmarks_px = detector.detect(image, "portrait.png").landmarks_px

    Each picture is seen alone (no tracking), as the published systems do, with default confidences of 0.5.
    """

    def __init__(self, path: FilePath | None = None, face: str | int = "only"):
        """Opens the model.

        Args:
            path: the `face_landmarker.task` bundle; None looks at $PORTRAIT_FACE_LANDMARKER, then the cache, then
                downloads it once.
            face: "only" refuses pictures with several faces, "largest" takes the largest, a number counts from the
                left (0 = leftmost).

        Raises:
            PortraitError: MediaPipe or a system library is missing, the model cannot be found, or a bad `face`.
        """
        if face not in ("only", "largest") and not (str(face).isdigit() and int(face) < _MOST_FACES):
            raise PortraitError(f"face '{face}' is not known; give 'only', 'largest' or a number below {_MOST_FACES}")
        self._landmarker = None
        self._face = face
        self._landmarker = _make_landmarker(model_path(path), 2 if face == "only" else _MOST_FACES)

    def __enter__(self) -> FaceDetector:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Frees the model; it cannot be used afterwards."""
        if self._landmarker is not None:
            self._landmarker.close()
            self._landmarker = None

    def detect(self, image: Image, source: object = "the image", frame: int | None = None) -> Detection:
        """Landmarks of the face in an RGB picture.

        Args:
            source, frame: name the picture in error messages.

        Raises:
            NoFaceError, MultipleFacesError: naming source and frame.
            PortraitError: the detector is closed, or the image is no RGB uint8 (MediaPipe would find nothing).
        """
        if self._landmarker is None:
            raise PortraitError("this face detector is closed; make a new one")
        image = np.asarray(image)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
            raise PortraitError(f"faces are found in uint8 RGB images (h, w, 3), got {image.dtype} {image.shape}")
        result = self._landmarker.detect(as_mediapipe(image))
        faces = [_pixels(face, image.shape) for face in result.face_landmarks]
        chosen = self._choose(faces, f"{source}" if frame is None else f"{source}, frame {frame}")
        scores = np.array([category.score for category in result.face_blendshapes[chosen]], np.float32)
        matrix = np.asarray(result.facial_transformation_matrixes[chosen], np.float32)
        return Detection(faces[chosen], scores, matrix)

    def detect_video(
        self, frames: Iterable[UInt8[np.ndarray, "_ _ 3"]], source: object = "the video", max_gap: int = 12
    ) -> DetectedVideo:
        """Landmarks of every frame; up to `max_gap` frames without a face are interpolated (held at the ends).

        Raises:
            NoFaceError: no face at all, or a longer gap (naming its frames). MultipleFacesError as `detect`.
        """

        def found() -> Iterator[Detection | None]:
            for number, image in enumerate(frames):
                try:
                    yield self.detect(image, source, number)
                except NoFaceError:
                    yield None

        return _fill_gaps(found(), source, max_gap)

    def _choose(self, faces: list[np.ndarray], where: str) -> int:
        if not faces:
            raise NoFaceError(
                f"no face found in {where}; use a picture with one clearly visible, upright human-like face that "
                "takes at least a tenth of it"
            )
        if self._face == "only":
            if len(faces) > 1:
                raise MultipleFacesError(
                    f"{len(faces)} or more faces found in {where}; crop to one, or choose by face 'largest' or its "
                    "number from the left (0, 1, …)"
                )
            return 0
        if self._face == "largest":
            return int(np.argmax([np.ptp(face[:, 1]) for face in faces]))
        order = np.argsort([face[:, 0].mean() for face in faces])
        if int(self._face) >= len(faces):
            raise NoFaceError(
                f"face number {self._face} was asked for, but {where} shows {len(faces)}; numbers count from the left "
                "and begin with 0, and 'largest' takes the largest face"
            )
        return int(order[int(self._face)])


def _pixels(face: list, shape: tuple[int, ...]) -> np.ndarray:
    height, width = shape[:2]
    points = np.array([(point.x, point.y, point.z) for point in face], np.float32)
    if len(points) != NUM_LANDMARKS:
        raise PortraitError(
            f"the face model gives {len(points)} landmarks, {NUM_LANDMARKS} are needed; use {MODEL_URL}"
        )
    # MediaPipe scales z like x.
    return points * np.array([width, height, width], np.float32)


_ROW = np.dtype(
    [
        ("landmarks_px", np.float32, (NUM_LANDMARKS, 3)),
        ("blendshapes", np.float32, (52,)),
        ("matrix", np.float32, (4, 4)),
        ("found", bool),
    ],
    align=True,
)
_NO_FACE = np.zeros((), _ROW)[()]


def _fill_gaps(found: Iterable[Detection | None], source: object, max_gap: int) -> DetectedVideo:
    # One array that grows in place: a list of detections takes the memory twice when it is stacked.
    rows = np.fromiter((_NO_FACE if one is None else (*one, True) for one in found), _ROW)
    known = rows["found"].copy()
    if not known.any():
        raise NoFaceError(f"no face found in any of the {len(rows)} frames of {source}; give a video of a face")
    where = np.flatnonzero(known)
    edges = np.concatenate([[-1], where, [len(rows)]])
    longest = int(np.argmax(np.diff(edges)))
    if np.diff(edges)[longest] - 1 > max_gap:
        first, last = edges[longest] + 1, edges[longest + 1] - 1
        raise NoFaceError(
            f"no face found in frames {first}–{last} of {source}; cut the video to where the face is visible, or allow "
            f"longer gaps than {max_gap} frames"
        )
    values = rows["landmarks_px"], rows["blendshapes"], rows["matrix"]
    for frame in np.flatnonzero(~known):
        position = np.interp(frame, where, np.arange(len(where)))
        low = int(position)
        before, after, weight = where[low], where[min(low + 1, len(where) - 1)], position - low
        for of_frame in values:
            of_frame[frame] = of_frame[before] * (1 - weight) + of_frame[after] * weight
    return DetectedVideo(*values, found=known)


def _make_landmarker(path: Path, faces: int):
    def options(vision, base):
        return vision.FaceLandmarkerOptions(
            base_options=base, num_faces=faces, output_face_blendshapes=True,
            output_facial_transformation_matrixes=True,
        )  # fmt: skip

    return open_landmarker("FaceLandmarker", path, options, MODEL_URL)


def open_landmarker(kind: str, path: Path, options: Callable[[Any, Any], Any], url: str) -> Any:
    """One of MediaPipe's landmarkers, silently and ready.

    Args:
        kind: its class.
        path: its model bundle.
        options: MediaPipe's `vision` and the base options → the landmarker's.
        url: where a usable bundle is.

    Raises:
        PortraitError: MediaPipe or a system library is missing, or the bundle is of another kind.
    """
    advice = "install the package with its dependencies, and on Debian: apt-get install libegl1 libgles2"
    if _unavailable is not None:
        raise PortraitError(f"MediaPipe cannot be loaded ({_unavailable}); {advice}") from _unavailable
    try:
        with _quiet():
            base = BaseOptions(model_asset_buffer=path.read_bytes())
            landmarker = getattr(vision, kind).create_from_options(options(vision, base))
            landmarker.detect(as_mediapipe(np.zeros((64, 64, 3), np.uint8)))  # The first call prints once more.
        return landmarker
    except OSError as error:
        raise PortraitError(f"MediaPipe misses a system library ({error}); {advice}") from error
    except (RuntimeError, ValueError) as error:
        raise PortraitError(f"{path} is not a usable model for MediaPipe's {kind} ({error}); get {url}") from error


def as_mediapipe(image: Image) -> Any:
    """An RGB picture as MediaPipe takes it."""
    return mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(image))


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences MediaPipe's C++ start-up lines, which no logging setting reaches."""
    sys.stderr.flush()
    saved, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(sink)


def model_path(path: FilePath | None = None) -> Path:
    """Where the face model lies: the argument, $PORTRAIT_FACE_LANDMARKER, the cache, or a download into the cache."""
    named = path or os.environ.get(MODEL_VARIABLE)
    if named:
        return _checked_model(checked_input(named, "face model"))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "portrait_jax" / "face_landmarker.task"
    if not cache.exists():
        _download(cache)
    return _checked_model(cache)


def _checked_model(path: Path) -> Path:
    if not zipfile.is_zipfile(path):
        raise InputFileError(f"{path} is not a face model bundle; remove it and get {MODEL_URL}")
    return path


def _download(target: Path) -> None:
    print(f"downloading MediaPipe's face model (4 MB) to {target}", file=sys.stderr)
    try:
        with urllib.request.urlopen(MODEL_URL, timeout=30) as response:
            data = response.read(_MAX_BYTES + 1)
    except (urllib.error.URLError, OSError) as error:
        raise PortraitError(
            f"the face model cannot be downloaded ({error}); fetch {MODEL_URL} on another machine and name the file by "
            f"${MODEL_VARIABLE} or --face_landmarker"
        ) from error
    if not _MIN_BYTES <= len(data) <= _MAX_BYTES:
        raise PortraitError(f"{MODEL_URL} gave {len(data)} bytes, which is no face model; try again later")
    with atomic_output(target) as partial:
        partial.write_bytes(data)
