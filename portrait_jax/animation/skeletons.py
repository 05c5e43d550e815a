"""Skeletons of the upper body beside what drives a face (HunyuanPortrait, arXiv 2503.18860, section 3.5)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from portrait_jax.animation.driving import is_sequence, reported, resampled_rows
from portrait_jax.animation.portrait import Portrait
from portrait_jax.animation.signals import Request
from portrait_jax.errors import InputFileError, ShapeError
from portrait_jax.face.pose import PoseDetector
from portrait_jax.face.skeleton import aligned, draw_skeleton, from_face, without_eyes
from portrait_jax.face.skeleton_files import SkeletonSequence, load_skeletons, save_skeletons
from portrait_jax.media.video import probe, read_frames
from portrait_jax.typing import Float, Int, Video

FOUND = "skeletons.npz"
"""Joints of the driver and, as a last frame, of the portrait, in the cache of a run that found them in pictures."""


def skeleton_pictures(request: Request, fps: float) -> Callable[[Int[np.ndarray, " f"]], Video]:
    """Skeletons of a stored sequence or of a video (MediaPipe's pose), laid on the portrait and drawn; past the end the last stays.

    The driver is taken for somebody else, whose eyes' places are left out. A portrait whose body nobody has measured is measured
    by its face.

    Raises:
        InputFileError: there is no such file, or no pose model for a video, or the first skeleton cannot be laid on the portrait.
    """
    assert request.control is not None
    side, scale = request.system.image_size, request.system.image_size / max(request.portrait.image.shape[:2])
    if is_sequence(request.control):
        sequence, own = load_skeletons(request.control), from_face(request.portrait.landmarks)
    else:
        sequence, own = found_in(request, fps)
    points = sequence.points if sequence.fps == fps else resampled_rows(sequence.points, sequence.fps, fps)
    try:
        laid = without_eyes(aligned(points, own)) * np.float32(scale)
    except ShapeError as error:
        raise InputFileError(f"{request.control}: {error}; begin where head and shoulders are seen") from error

    def draw(frames: Int[np.ndarray, " f"]) -> Video:
        return np.stack([draw_skeleton(laid[min(i, len(laid) - 1)], side, side) for i in frames])

    return draw


def found_in(request: Request, fps: float) -> tuple[SkeletonSequence, Float[np.ndarray, "12 2"]]:
    """Joints in a video's frames and in the portrait, which are kept for a run that goes on."""
    assert request.control is not None
    kept = request.cache / FOUND
    if not kept.exists():
        info = probe(request.control)
        frames = read_frames(request.control, fps=fps)
        with request.pose() as detector:
            joints = detector.detect_video(
                reported(frames, "finding skeletons", max(round(fps * info.duration), 1), request.report)
            )
            own = measured(detector, request.portrait)
        kept.parent.mkdir(parents=True, exist_ok=True)
        save_skeletons(kept, SkeletonSequence(fps, info.width, info.height, np.concatenate([joints, own[None]])))
    stored = load_skeletons(kept)
    return stored._replace(points=stored.points[:-1]), stored.points[-1]


def measured(detector: PoseDetector, portrait: Portrait) -> Float[np.ndarray, "12 2"]:
    """The portrait's joints; what of its head no pose was found for is read off its face."""
    seen, face = detector.detect(portrait.image), from_face(portrait.landmarks)
    return np.where(np.isnan(seen), face, seen)
