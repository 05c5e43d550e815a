"""Systems that are driven by crops of a face and of its head, and by how much both move; the portrait's face is told aligned.

Crops and levels are those of HunyuanPortrait's release (`face.squares`, `face.intensity`): squares that follow the face by
little more than half, around the box of the first frame. They are kept on the disk (`animation.pieces`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import numpy as np

from portrait_jax.animation.driving import is_sequence, load_driving, pictures
from portrait_jax.animation.landmarks import video_sound
from portrait_jax.animation.pieces import Pieces, cut_pieces
from portrait_jax.animation.portrait import Portrait
from portrait_jax.animation.signals import Clip, Drive, Driver, Request, Signals
from portrait_jax.animation.skeletons import skeleton_pictures
from portrait_jax.errors import ConfigError, InputFileError
from portrait_jax.face.crops import face_box
from portrait_jax.face.five_points import five_points, template_face
from portrait_jax.face.intensity import IntensityConfig
from portrait_jax.face.squares import driving_crops, driving_levels
from portrait_jax.media.video import read_frames
from portrait_jax.systems.system import System
from portrait_jax.typing import Float, Image, Int, Video


class AlignedSystem(System, Protocol):
    """A system whose `encode_driving` reads `faces`, `heads`, `head_level` and `expression_level`, and whose `encode_portrait` is
    told `aligned_u8`."""

    @property
    def face_size(self) -> int:
        """Side of both crops in pixels."""
        ...

    @property
    def aligned_size(self) -> int:
        """Side of the aligned face in pixels."""
        ...

    @property
    def intensity(self) -> IntensityConfig:
        """How levels are measured."""
        ...


def aligned_signals(
    crops: Pieces,
    points_px: Float[np.ndarray, "f 5 2"],
    portrait: Portrait,
    system: AlignedSystem,
    skeletons: Callable[[Int[np.ndarray, " f"]], Video] | None = None,
) -> Signals:
    """Crops of the asked frames, their levels, skeletons if there are any, and the portrait's face on the recogniser's template."""
    levels = driving_levels(points_px, system.intensity)

    def at(frames: Int[np.ndarray, " f"]) -> dict[str, np.ndarray]:
        drawn = {} if skeletons is None else {"skeletons": skeletons(frames)}
        return {**crops(frames), **{name: level[frames] for name, level in levels.items()}, **drawn}

    aligned = template_face(portrait.image, five_points(portrait.landmarks), system.aligned_size)
    return Signals(at, portrait={"aligned_u8": aligned})


def load(request: Request) -> Drive:
    """Cuts faces and heads out of a driving video, and draws skeletons if any are given.

    Raises:
        InputFileError: for stored landmarks, which say nothing to such a system, and for what `load_driving` refuses.
    """
    if is_sequence(request.path):
        raise InputFileError(
            f"{request.path} holds an array, but {request.system.name} is driven by pictures of faces; give a driving video"
        )
    system: AlignedSystem = request.system  # type: ignore[assignment]  # What the table's key promises.
    driving = load_driving(
        request.path, fps=request.fps, detector=request.detector, cache=request.cache, report=request.report
    )
    landmarks, fps = driving.sequence.landmarks, driving.sequence.fps
    points, box = five_points(landmarks), face_box(landmarks[0])

    def cut(number: int, image: Image) -> dict[str, np.ndarray]:
        return driving_crops(image, points[number], box, system.face_size)

    frames = read_frames(request.path, fps=fps)
    crops = cut_pieces(frames, len(points), cut, request.cache, request.report)
    rows: dict[str, Callable[[Sequence[int]], Sequence[Image]]] = {
        "driving": pictures(driving),
        **{label: partial(_shown, crops, name) for label, name in (("face", "faces"), ("head", "heads"))},
    }
    skeletons = None if request.control is None else skeleton_pictures(request, fps)
    if skeletons is not None:
        rows["skeleton"] = lambda numbers: list(skeletons(np.array(numbers)))
    signals = aligned_signals(crops, points, request.portrait, system, skeletons)
    return Drive(signals, len(points), fps, driving.thumbnail_frames, rows)


def _shown(crops: Pieces, name: str, frames: Sequence[int]) -> Sequence[Image]:
    return list(crops(np.array(frames))[name])


def clip_signals(system: AlignedSystem, portrait: Portrait, clip: Clip, alignment: str) -> Signals:
    """Faces and heads of a clip's frames, which say by themselves where the head goes: `alignment` means nothing here.

    Raises:
        ConfigError: if the clip has no frames.
    """
    if clip.frames is None:
        raise ConfigError(
            f"{system.name} is driven by pictures of faces; give the driver's frames, not landmarks alone"
        )
    frames, points, box = clip.frames, five_points(clip.landmarks), face_box(clip.landmarks[0])

    def crops(asked: Int[np.ndarray, " f"]) -> dict[str, np.ndarray]:
        found = [driving_crops(frames[i], points[i], box, system.face_size) for i in asked]
        return {name: np.stack([one[name] for one in found]) for name in found[0]}

    return aligned_signals(crops, points, portrait, system)


ALIGNED = Driver(load, clip_signals, lambda path: not is_sequence(path), video_sound, control="body")
