"""Which frames of a video make clips: runs of one visible face, cut while the frames go by.

Memory holds the landmarks of one clip, however long the video is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from portrait_jax.errors import MultipleFacesError, NoFaceError, PortraitError, VideoError
from portrait_jax.face.detector import Detection
from portrait_jax.typing import Float, Image

GRAVITY = (NoFaceError, MultipleFacesError, VideoError)
"""Of several reasons in one stretch the last of these is named."""


@runtime_checkable
class Detector(Protocol):
    """What is asked of a face detector; `portrait_jax.face.detector.FaceDetector` is one."""

    def detect(self, image: Any, source: object = ..., frame: int | None = ...) -> Detection: ...


class Clip(NamedTuple):
    """Frames `start`, `start + 1`, … of the video, with one face each."""

    start: int
    landmarks_px: Float[np.ndarray, "f 478 3"]
    blendshapes: Float[np.ndarray, "f 52"]

    @property
    def stop(self) -> int:
        """The first frame behind the clip."""
        return self.start + len(self.landmarks_px)


class Skip(NamedTuple):
    """Frames from `start` to before `stop` (None: all that follow) that no clip can use, and why."""

    start: int
    stop: int | None
    error: PortraitError


def detections(frames: Iterable[Image], detector: Detector, video: str) -> Iterator[Detection | PortraitError]:
    """What is seen in each frame: one face, or why not. A file that is damaged further on ends with a VideoError.

    Raises:
        VideoError: not even the first frame can be read.
    """
    number, frames = 0, iter(frames)
    while True:
        try:
            yield detector.detect(next(frames), video, number)
        except StopIteration:
            return
        except (NoFaceError, MultipleFacesError) as error:
            yield error.with_traceback(None)  # A traceback would keep the picture.
        except VideoError as error:
            if number == 0:
                raise
            yield error.with_traceback(None)
            return
        number += 1


def bridged(seen: Iterable[Detection | PortraitError], max_gap: int) -> Iterator[Detection | Skip]:
    """Faces of consecutive frames, and between them what cannot be used.

    Up to `max_gap` frames without a face between two frames with one are interpolated. A longer gap, one at either end,
    and any with several faces is skipped.
    """
    before: Detection | None = None
    worst: PortraitError | None = None
    count = missing = 0  # Frames seen; those of them since the last face.
    for item in seen:
        if isinstance(item, PortraitError):
            worst, missing = graver(worst, item), missing + 1
        else:
            if before is not None and missing <= max_gap and not isinstance(worst, MultipleFacesError):
                yield from between(before, item, missing)
            elif worst is not None:
                yield Skip(count - missing, count, worst)
            yield item
            before, worst, missing = item, None, 0
        count += 1
    if worst is not None:
        yield Skip(count - missing, None if isinstance(worst, VideoError) else count, worst)


def graver(one: PortraitError | None, other: PortraitError) -> PortraitError:
    """The one to be named, the first if they are alike."""
    return other if one is None or GRAVITY.index(type(other)) > GRAVITY.index(type(one)) else one


def between(before: Detection, after: Detection, count: int) -> Iterator[Detection]:
    """`count` faces on the straight way from one to the other."""
    for number in range(1, count + 1):
        share = number / (count + 1)
        yield Detection(*(one + (other - one) * np.float32(share) for one, other in zip(before, after, strict=True)))


def clips(faces: Iterable[Detection | Skip], min_frames: int, max_frames: int) -> Iterator[Clip | Skip]:
    """Cuts each run of faces into clips of `max_frames`; a rest shorter than `min_frames` is skipped."""
    run: list[Detection] = []
    start = 0
    for item in faces:
        if isinstance(item, Skip):
            if run:
                yield _clip(start, run, min_frames)
            yield item
            run, start = [], item.stop or 0
            continue
        run.append(item)
        if len(run) == max_frames:
            yield _clip(start, run, min_frames)
            run, start = [], start + max_frames
    if run:
        yield _clip(start, run, min_frames)


def _clip(start: int, run: list[Detection], min_frames: int) -> Clip | Skip:
    if len(run) < min_frames:
        reason = f"too short: {len(run)} frames at 25 fps, at least {min_frames} are needed"
        return Skip(start, start + len(run), VideoError(reason))
    landmarks, blendshapes, _ = (np.stack(values) for values in zip(*run, strict=True))
    return Clip(start, landmarks, blendshapes)
