"""The driving signal: landmarks of a stored sequence or of a video, and a few frames to show beside the result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from portrait_jax.animation.signals import Report, silent
from portrait_jax.face.alignment import LandmarkSequence, load_landmarks, save_landmarks
from portrait_jax.face.detector import FaceDetector
from portrait_jax.face.drawing import draw_landmarks
from portrait_jax.media.files import FilePath, atomic_output
from portrait_jax.media.image import letterbox
from portrait_jax.media.video import probe, read_frames
from portrait_jax.typing import Float, Image, Video

THUMBNAIL = 192
"""Side in pixels of the frames kept for the contact sheet."""

POINTS, PICTURES = "driving.npz", "thumbnails.npz"
"""Names in the cache; the second is written last."""


class Driving(NamedTuple):
    """A landmark sequence, and evenly spread pictures of it.

    Attributes:
        sequence: landmarks in pixels of the driving frames, with their frame rate.
        thumbnails: u8 "k s s 3".
        thumbnail_frames: which frames they show.
    """

    sequence: LandmarkSequence
    thumbnails: Video
    thumbnail_frames: list[int]


def load_driving(
    path: FilePath,
    *,
    fps: float | None = None,
    detector: Callable[[], FaceDetector] = FaceDetector,
    cache: Path | None = None,
    report: Report = silent,
) -> Driving:
    """Reads a stored sequence (`.npz`, see `face.alignment.save_landmarks`) or finds the face in each frame of a video.

    Args:
        fps: resample a video to this rate; None keeps its own. A stored sequence is resampled alike.
        detector: opens a face detector; only called for videos.
        cache: a folder where a video's landmarks are kept, so that an interrupted run need not find them again.
        report: told about progress.

    Raises:
        InputFileError, VideoError, NoFaceError, MultipleFacesError: with the file and the frame.
    """
    if is_sequence(path):
        return _from_sequence(resample(load_landmarks(path), fps))
    if cache is None:
        return _detect(path, fps, detector, report)
    if not (cache / PICTURES).exists():
        _keep(_detect(path, fps, detector, report), cache)
    # Stored landmarks are rounded: the first run must see what one that goes on will see.
    with np.load(cache / PICTURES, allow_pickle=False) as kept:
        return Driving(load_landmarks(cache / POINTS), kept["thumbnails"], kept["frames"].tolist())


def _detect(path: FilePath, fps: float | None, detector: Callable[[], FaceDetector], report: Report) -> Driving:
    info = probe(path)
    rate = fps or info.fps
    expected = max(round(info.duration * rate), 1)
    keeper = Thumbnails()
    frames = keeper.watch(reported(read_frames(path, fps=rate), "finding the face", expected, report))
    with detector() as found:
        faces = found.detect_video(frames, path)
    sequence = LandmarkSequence(rate, keeper.size[1], keeper.size[0], faces.landmarks_px, faces.expression)
    return Driving(sequence, np.stack(keeper.images), keeper.numbers)


def _keep(driving: Driving, cache: Path) -> None:
    save_landmarks(cache / POINTS, driving.sequence)
    with atomic_output(cache / PICTURES) as partial:
        np.savez(partial, thumbnails=driving.thumbnails, frames=np.array(driving.thumbnail_frames))


def is_sequence(path: FilePath) -> bool:
    """Whether a driving file holds stored landmarks; any other is taken for a video."""
    return Path(path).suffix.lower() == ".npz"


def resample(sequence: LandmarkSequence, fps: float | None) -> LandmarkSequence:
    """The sequence at another frame rate, linearly interpolated; itself for None or its own rate."""
    if fps is None or fps == sequence.fps:
        return sequence
    scores = sequence.expression
    landmarks = resampled_rows(sequence.landmarks, sequence.fps, fps)
    mixed = None if scores is None else resampled_rows(scores, sequence.fps, fps)
    return sequence._replace(fps=float(fps), landmarks=landmarks, expression=mixed)


def resampled_rows(rows: Float[np.ndarray, " f *n"], fps: float, wanted: float) -> Float[np.ndarray, " g *n"]:
    """One row per frame at another rate, linearly interpolated: the duration stays. Float32."""
    frames = len(rows)
    count = max(round(frames * wanted / fps), 1)
    position = np.minimum(np.arange(count) * fps / wanted, frames - 1)
    low = position.astype(int)
    high = np.minimum(low + 1, frames - 1)
    part = (position - low).astype(np.float32)
    found = np.empty((count, *rows.shape[1:]), np.float32)
    # Frame by frame: all at once takes the memory several times.
    for i in range(count):
        found[i] = rows[low[i]] * (1 - part[i]) + rows[high[i]] * part[i]
    return found


def pictures(driving: Driving) -> Callable[[Sequence[int]], list[Image]]:
    """Frame numbers out of `thumbnail_frames` → their pictures."""
    return lambda frames: [driving.thumbnails[driving.thumbnail_frames.index(number)] for number in frames]


class Thumbnails:
    """Keeps at least `least` evenly spread frames of a stream of unknown length in bounded memory."""

    def __init__(self, least: int = 8) -> None:
        self.least = least
        self.images: list[Image] = []
        self.numbers: list[int] = []
        self.size = (0, 0)
        """(height, width) of the stream."""
        self._stride = 1

    def watch(self, frames: Iterable[Image]) -> Iterator[Image]:
        """Passes frames on; each time twice `least` are kept, every second one is dropped and the stride doubles."""
        for number, image in enumerate(frames):
            self.size = image.shape[:2]
            if number % self._stride == 0:
                self.images.append(letterbox(image, THUMBNAIL, THUMBNAIL))
                self.numbers.append(number)
            if len(self.images) == 2 * self.least:
                self.images, self.numbers, self._stride = self.images[::2], self.numbers[::2], 2 * self._stride
            yield image


def _from_sequence(sequence: LandmarkSequence) -> Driving:
    frames = sorted(set(np.linspace(0, len(sequence.landmarks) - 1, 8).astype(int).tolist()))
    scale = THUMBNAIL / max(sequence.width, sequence.height)
    pictures = [draw_landmarks(sequence.landmarks[i] * scale, THUMBNAIL, THUMBNAIL, style="smooth") for i in frames]
    return Driving(sequence, np.stack(pictures), frames)


def reported(frames: Iterable[Image], what: str, expected: int | None, report: Report) -> Iterator[Image]:
    """Frames as they pass, counted for who watches."""
    for number, image in enumerate(frames):
        report(what, number + 1, expected)
        yield image
