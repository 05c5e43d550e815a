"""Systems that are driven by drawn landmarks: a driving file or clip becomes control images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from portrait_jax.animation.driving import is_sequence, load_driving, pictures
from portrait_jax.animation.motion import clip_alignment, make_alignment
from portrait_jax.animation.portrait import Portrait
from portrait_jax.animation.signals import Clip, Drive, Driver, Request, Signals
from portrait_jax.face.detector import model_path
from portrait_jax.face.drawing import draw_landmarks
from portrait_jax.media.video import probe
from portrait_jax.systems.system import System
from portrait_jax.typing import Float, Image, Int, Video

Drawing = Callable[[Int[np.ndarray, " f"]], Video]
"""Frame numbers → control images of these frames."""


class DrawnSystem(System, Protocol):
    """A system whose `encode_driving` reads `control`: pictures with lines drawn along a face."""

    @property
    def drawing_style(self) -> str:
        """How its control images are drawn, see `face.drawing`."""
        ...


def control_drawing(
    driving_px: Float[np.ndarray, "f 478 3"],
    system: DrawnSystem,
    align: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Drawing:
    """Draws the asked frames of a landmark sequence in the style that the system was trained with.

    Args:
        align: moves landmarks onto the portrait's face (`face.alignment.Alignment`); it gets those that are drawn, so
            that a long clip is never moved as a whole. None draws them as they are.
    """
    side = system.image_size

    def draw(indices: Int[np.ndarray, " f"]) -> Video:
        points = driving_px[indices] if align is None else align(driving_px[indices])
        return np.stack([draw_landmarks(face, side, side, style=system.drawing_style) for face in points])

    return draw


def drawn(drawing: Drawing) -> Signals:
    """Control images as signals."""
    return Signals(lambda frames: {"control": drawing(frames)})


def load(request: Request) -> Drive:
    """Finds the landmarks of a driving video, or reads stored ones, and settles how they move onto the portrait."""
    driving = load_driving(
        request.path, fps=request.fps, detector=request.detector, cache=request.cache, report=request.report
    )
    system: DrawnSystem = request.system  # type: ignore[assignment]  # What the table's key promises.
    alignment = make_alignment(
        system.sampling.alignment, driving.sequence, request.portrait, rotation=request.rotation, bundle=request.bundle
    )
    drawing = control_drawing(driving.sequence.landmarks, system, alignment)

    def lines(frames: Sequence[int]) -> Sequence[Image]:
        return list(drawing(np.array(frames)))

    rows = {"driving": pictures(driving), "landmarks": lines}
    sequence = driving.sequence
    return Drive(drawn(drawing), len(sequence.landmarks), sequence.fps, driving.thumbnail_frames, rows)


def clip_signals(system: DrawnSystem, portrait: Portrait, clip: Clip, alignment: str) -> Signals:
    """A landmark sequence in memory, moved onto the portrait's face by `alignment`."""
    moved = clip_alignment(
        alignment,
        clip.landmarks,
        portrait,
        size=clip.size,
        expression=clip.expression,
        bundle=clip.bundle or model_path,
    )
    return drawn(control_drawing(clip.landmarks, system, moved))


def video_sound(path: Path) -> Path | None:
    """The driving video, if it has sound; stored sequences have none."""
    return None if is_sequence(path) or not probe(path).has_audio else path


LANDMARKS = Driver(
    load, clip_signals, lambda path: not is_sequence(path), video_sound, lambda alignment: alignment == "metric"
)
