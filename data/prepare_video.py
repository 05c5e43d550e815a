"""Real talking-head videos as a data set: one face per video, found, cropped, measured and cut into clips.

Each video is read twice, frame by frame, so that memory holds one clip at most: once to find the face, once to crop it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from data import parts
from data.builder import finished, write_shards
from data.records import CRF, Record, encode_clip
from data.schema import AUDIO_RATE, FPS, SCHEMA_VERSION
from portrait_jax.errors import AudioError, ConfigError, InputFileError, VideoError
from portrait_jax.face.crops import clip_crop, face_box
from portrait_jax.face.detector import DetectedVideo, FaceDetector
from portrait_jax.face.masks import oval_mask
from portrait_jax.face.measures import head_pose
from portrait_jax.media.audio import read_audio
from portrait_jax.media.video import read_frames

SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")

BLENDSHAPES = (
    "_neutral", "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight", "cheekPuff",
    "cheekSquintLeft", "cheekSquintRight", "eyeBlinkLeft", "eyeBlinkRight", "eyeLookDownLeft", "eyeLookDownRight",
    "eyeLookInLeft", "eyeLookInRight", "eyeLookOutLeft", "eyeLookOutRight", "eyeLookUpLeft", "eyeLookUpRight",
    "eyeSquintLeft", "eyeSquintRight", "eyeWideLeft", "eyeWideRight", "jawForward", "jawLeft", "jawOpen", "jawRight",
    "mouthClose", "mouthDimpleLeft", "mouthDimpleRight", "mouthFrownLeft", "mouthFrownRight", "mouthFunnel",
    "mouthLeft", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthPressLeft", "mouthPressRight", "mouthPucker",
    "mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper", "mouthSmileLeft",
    "mouthSmileRight", "mouthStretchLeft", "mouthStretchRight", "mouthUpperUpLeft", "mouthUpperUpRight",
    "noseSneerLeft", "noseSneerRight",
)  # fmt: skip
"""MediaPipe's names in the order of `Detection.blendshapes`."""


@dataclasses.dataclass(frozen=True)
class VideoConfig:
    """How videos are cut.

    Attributes:
        size: of the square clips, pixels.
        margin: what the crop adds around the face box, as a part of the face's size.
        min_frames, max_frames: shorter videos are skipped; longer ones are cut into clips of `max_frames`, and a rest
            shorter than `min_frames` is left out. At 25 fps.
        max_gap: so many frames without a face are bridged; more skips the video.
        test_fraction: part of the videos, by a hash of the name, that goes to the test split.
    """

    size: int = 256
    margin: float = 0.5
    min_frames: int = 24
    max_frames: int = 250
    max_gap: int = 12
    test_fraction: float = 0.0
    crf: int = CRF

    def __post_init__(self) -> None:
        if self.size % 2 or not 32 <= self.size <= 1024:
            raise ConfigError(f"prepare: size {self.size} must be even, 32 to 1024")
        if not 1 <= self.min_frames <= self.max_frames:
            raise ConfigError("prepare: min_frames must be at least 1 and at most max_frames")


class Detector(Protocol):
    """What is asked of a face detector; `portrait_jax.face.detector.FaceDetector` is one."""

    def detect_video(self, frames: Any, source: object = ..., max_gap: int = ...) -> DetectedVideo: ...


def prepare_video(config: VideoConfig, folder: str | Path, output: str | Path, *, processes: int = 1) -> dict[str, Any]:
    """Turns every video below `folder` into clips, or goes on where an interrupted run was; returns the statistics.

    Videos without a face, with several, too short or broken are left out and named in `report.json`.

    Raises:
        InputFileError: no such folder, or no video in it. ConfigError: `output` holds something else, or every
            video was left out. PortraitError: no face model.
    """
    output = Path(output).absolute()
    videos = find_videos(folder)
    listing = [f"{video.relative_to(folder)} {video.stat().st_size}" for video in videos]
    settings = {"kind": "video", "schema_version": SCHEMA_VERSION, **dataclasses.asdict(config), "videos": listing}
    parts.claim(output, settings)
    if (statistics := finished(output)) is not None:
        return statistics
    detector()  # A missing model is an error of the run, not of each video.
    sources = [
        parts.Source(name := identify(local), str(local), split_of(name, config), (config, str(folder)))
        for local in (video.relative_to(folder) for video in videos)
    ]
    parts.prepare_sources(output, sources, cut, processes=processes)
    names = {"expression": BLENDSHAPES, "attributes": []}
    return write_shards(output, parts.collect(output, sources), names)


def find_videos(folder: str | Path) -> list[Path]:
    """Video files below a folder by their suffix, sorted. Raises InputFileError if there is none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputFileError(f"{folder} is not a folder; --input names a folder of videos")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise InputFileError(f"no video in {folder}; known suffixes are {', '.join(SUFFIXES)}")
    return found


def identify(path: Path) -> str:
    """A file name for a relative path: readable, with a hash that keeps `a/b.mp4` and `a_b.mov` apart."""
    return f"{re.sub(r'[^A-Za-z0-9]+', '_', str(path))[:80]}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"


def split_of(name: str, config: VideoConfig) -> str:
    """The split "test" for about `test_fraction` of all names, always the same ones."""
    return "test" if int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 2**32 < config.test_fraction else "train"


@cache
def detector() -> FaceDetector:
    """One detector per process; loading it costs more than a short video."""
    return FaceDetector()


def cut(source: parts.Source) -> Iterator[Record]:
    """One video's clips. Raises PortraitError for a video that cannot be used."""
    cv2.setNumThreads(1)
    config, folder = source.item
    yield from cut_video(config, str(Path(folder) / source.name), source, detector())


def cut_video(config: VideoConfig, video: str, source: parts.Source, detector: Detector) -> Iterator[Record]:
    """The clips of one video file; see `cut`."""
    name, origin = source.source_id, source.name
    seen = detector.detect_video(read_frames(video, FPS), video, config.max_gap)
    length = len(seen.landmarks_px)
    if length < config.min_frames:
        raise VideoError(f"{video} is too short: {length} frames at 25 fps, at least {config.min_frames} are needed")
    sound = read_sound(video)
    frames = read_frames(video, FPS)
    for number, start in enumerate(range(0, length, config.max_frames)):
        stop = min(start + config.max_frames, length)
        pictures = islice(frames, stop - start)
        if stop - start < config.min_frames:
            return
        cut_sound = sound[round(start * AUDIO_RATE / FPS) : round(stop * AUDIO_RATE / FPS)]
        part = DetectedVideo(*(values[start:stop] for values in seen))
        clip = {"clip_id": f"{name}_{number:04d}", "source": origin, "identity": name, "fps": FPS, "audio": cut_sound}
        yield encode_clip({**clip, **measure(pictures, part, config)}, crf=config.crf)


def read_sound(video: str) -> np.ndarray:
    """int16 at 16 kHz; empty if the video has no sound."""
    try:
        sound = read_audio(video, AUDIO_RATE)
    except AudioError:
        return np.zeros(0, np.int16)
    return np.clip(np.rint(sound * 32768), -32768, 32767).astype(np.int16)


def measure(pictures: Iterator[np.ndarray], seen: DetectedVideo, config: VideoConfig) -> dict[str, np.ndarray]:
    """Crops one clip's pictures around the face, and gives everything measured in the crop's pixels."""
    first, size = next(pictures), config.size
    crop = clip_crop(seen.landmarks_px, config.margin, first.shape[:2])
    landmarks = crop.apply_landmarks(seen.landmarks_px, size).astype(np.float32)
    boxes = face_box(landmarks)
    centre, width = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:3] - boxes[:, :1]
    return {
        "frames": np.stack([crop.apply(first, size), *(crop.apply(picture, size) for picture in pictures)]),
        "landmarks": landmarks,
        "face_box": boxes.astype(np.float32),
        "face_mask": np.stack([oval_mask(points, size, size) for points in landmarks]),
        "pose": np.concatenate([head_pose(landmarks), centre / size, width / size], axis=1).astype(np.float32),
        "expression": seen.blendshapes.astype(np.float32),
    }
