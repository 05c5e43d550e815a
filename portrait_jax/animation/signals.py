"""What drives an animation: arrays for any stretch of frames, where they come from, and what to show of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from portrait_jax.animation.portrait import Portrait
from portrait_jax.face.detector import FaceDetector
from portrait_jax.face.pose import PoseDetector
from portrait_jax.systems.system import System
from portrait_jax.typing import Float, Image, Int, Params, Video

Report = Callable[[str, int, int | None], None]
"""(what is being done, how many are done, how many there are if known)."""


def silent(what: str, done: int, total: int | None) -> None:
    """A `Report` that says nothing."""


@dataclass(frozen=True)
class Signals:
    """The arrays that a system's `encode_driving` reads, by name.

    Attributes:
        at: frame numbers → arrays "f ..." of these frames. They come in any order and more than once; only what is being
            sampled is asked for, so that a long driver never lies in memory as a whole.
        still: arrays without an axis of frames: what the portrait itself gives.
        portrait: what `encode_portrait` is told beside the picture, by argument; without an axis of clips.
    """

    at: Callable[[Int[np.ndarray, " f"]], Mapping[str, np.ndarray]]
    still: Mapping[str, np.ndarray] = field(default_factory=dict)
    portrait: Mapping[str, np.ndarray] = field(default_factory=dict)

    def batch(self, frames: Int[np.ndarray, " f"]) -> dict[str, np.ndarray]:
        """All arrays with a batch axis of one in front."""
        return batch_of([self], frames)


def batch_of(signals: Sequence[Signals], frames: Int[np.ndarray, " f"]) -> dict[str, np.ndarray]:
    """All arrays of clips that are sampled together, "b …"."""
    return stacked([{**each.still, **each.at(frames)} for each in signals])


def stacked(clips: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Arrays of each clip, by name → the same with an axis of clips in front. Of one clip they are no copies."""
    if len(clips) == 1:
        return {name: array[None] for name, array in clips[0].items()}
    return {name: np.stack([clip[name] for clip in clips]) for name in clips[0]}


@dataclass(frozen=True)
class Drive:
    """A driver that is ready: its signals, its length and rate, and pictures for the contact sheet.

    Attributes:
        signals: see there.
        count: frames of the video to be made.
        fps: its frame rate.
        shown: numbers of the frames that the contact sheet shows, in order.
        rows: label of a row → (frame numbers out of `shown` → a picture of each). May be empty.
    """

    signals: Signals
    count: int
    fps: float
    shown: Sequence[int]
    rows: Mapping[str, Callable[[Sequence[int]], Sequence[Image]]]


class Request(NamedTuple):
    """What a driver is made ready with.

    Attributes:
        path: the driving file.
        system, params: what it will drive, for drivers that are encoded once.
        portrait: whom it will drive.
        cache: a folder where costly results are kept, so that a run that goes on need not find them again.
        fps: the frame rate that is asked for; None: the file's own.
        rotation: "absolute" or "relative", see `launch.animate`.
        detector: opens a face detector.
        bundle: where MediaPipe's face model is.
        report: told about progress.
        prompts: token ids of prompts by the names that `encode_driving` reads; for systems that read text.
        control: a video, or stored landmarks or skeletons, that steers the pose; for systems that read control pictures beside
            what drives them.
        pose: opens a detector of bodies.
    """

    path: Path
    system: System
    params: Params
    portrait: Portrait
    cache: Path
    fps: float | None
    rotation: str
    detector: Callable[[], FaceDetector]
    bundle: Callable[[], Path]
    report: Report = silent
    prompts: Mapping[str, Int[np.ndarray, " n"]] = MappingProxyType({})
    control: Path | None = None
    pose: Callable[[], PoseDetector] = PoseDetector


class Clip(NamedTuple):
    """A driver in memory, for notebooks and metrics: what is known of it.

    Attributes:
        landmarks: in pixels of its frames.
        frames: its pictures; only some systems need them.
        size, expression, bundle: see `motion.clip_alignment`; None: its defaults.
        speech: hidden states of the system's speech encoder; only some systems need them.
    """

    landmarks: Float[np.ndarray, "f 478 3"]
    frames: Video | None = None
    size: tuple[int, int] | None = None
    expression: Float[np.ndarray, " f"] | None = None
    bundle: Callable[[], Path] | None = None
    speech: Float[np.ndarray, "f layers d"] | None = None


@dataclass(frozen=True)
class Driver:
    """How one kind of driver becomes signals: a row of `drivers.DRIVERS`.

    Attributes:
        load: a driving file → the driver made ready.
        clip: (system, portrait, clip, alignment) → signals, all in memory; `alignment` is one of `sampling.alignment`.
        detects: whether a face is searched in this driving file.
        sound: the driving file → itself if it has sound that the result keeps, or None.
        measures: whether this `sampling.alignment` reads MediaPipe's face model even if no face is searched.
        control: what is searched in a video beside the driver: "face", "body", or "" where nothing can be told so.
    """

    load: Callable[[Request], Drive]
    clip: Callable[[Any, Portrait, Clip, str], Signals]
    detects: Callable[[Path], bool]
    sound: Callable[[Path], Path | None]
    measures: Callable[[str], bool] = lambda alignment: False
    control: str = ""
