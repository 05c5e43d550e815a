"""Real talking-head videos as a data set: one face at a time, found, cropped, measured and cut into clips.

Each video is read twice side by side, frame by frame, so that memory holds one clip at most: ahead to find the face,
behind to crop it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data import parts, runs
from data.builder import finished, write_shards
from data.records import CRF, Record, encode_clip
from data.schema import AUDIO_RATE, FPS, SCHEMA_VERSION
from portrait_jax.errors import AudioError, ConfigError, InputFileError, PortraitError, VideoError
from portrait_jax.face.crops import clip_crop, face_box
from portrait_jax.face.detector import FaceDetector
from portrait_jax.face.masks import oval_mask
from portrait_jax.face.measures import head_pose
from portrait_jax.media.audio import read_blocks
from portrait_jax.media.video import read_frames
from portrait_jax.typing import Int16

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
        min_frames, max_frames: runs of frames with one face are cut into clips of `max_frames`; a rest shorter than
            `min_frames` is skipped. At 25 fps.
        max_gap: so many frames without a face are bridged; more end the run, as does any frame with several faces.
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


def prepare_video(config: VideoConfig, folder: str | Path, output: str | Path, *, processes: int = 1) -> dict[str, Any]:
    """Turns every video below `folder` into clips, or goes on where an interrupted run was; returns the statistics.

    Videos without a face, with several, too short or broken, and such stretches of others, are left out and named in
    `report.json`.

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


def cut(source: parts.Source) -> Iterator[Record | parts.Skipped]:
    """One video's clips, and what lies between them. Raises PortraitError for a video that cannot be used."""
    cv2.setNumThreads(1)
    config, folder = source.item
    video = str(Path(folder) / source.name)
    try:
        yield from cut_video(config, video, source, detector())
    except PortraitError:
        raise
    except Exception as error:  # Whatever a file makes a decoder do, the other files are prepared.
        raise VideoError(f"{video} cannot be used ({type(error).__name__}: {error}); re-encode it") from error


def cut_video(
    config: VideoConfig, video: str, source: parts.Source, detector: runs.Detector
) -> Iterator[Record | parts.Skipped]:
    """The clips of one video file; see `cut`."""
    seen = runs.bridged(runs.detections(read_frames(video, FPS), detector, video), config.max_gap)
    sound, pictures, position, number = Sound(video), read_frames(video, FPS), 0, 0
    for piece in runs.clips(seen, config.min_frames, config.max_frames):
        if isinstance(piece, runs.Skip):
            yield skipped(piece, video)
            continue
        named = {"clip_id": f"{source.source_id}_{number:04d}", "source": source.name, "identity": source.source_id}
        heard = sound.cut(round(piece.start * AUDIO_RATE / FPS), round(piece.stop * AUDIO_RATE / FPS))
        shown = islice(pictures, piece.start - position, piece.stop - position)
        clip = {**named, "fps": FPS, "audio": heard, **measure(shown, piece, config)}
        yield encode_clip(clip, crf=config.crf)
        position, number = piece.stop, number + 1


def skipped(stretch: runs.Skip, video: str) -> parts.Skipped:
    """What the report says of a stretch."""
    first, last = stretch.start / FPS, None if stretch.stop is None else stretch.stop / FPS
    where = f"from {first:.2f} s" + ("" if last is None else f" to {last:.2f} s")
    return parts.Skipped(type(stretch.error).__name__, f"{video}, {where}: {stretch.error}", first, last)


class Sound:
    """A video's sound, int16 at 16 kHz, of which memory holds what was cut last."""

    def __init__(self, video: str):
        self._blocks = read_sound(video)
        self._kept, self._first = np.zeros(0, np.int16), 0  # Samples, and the number of the first of them.

    def cut(self, start: int, stop: int) -> Int16[np.ndarray, " n"]:
        """Samples `start` to before `stop`, fewer where the sound ends. Each cut starts behind the one before."""
        while self._first + len(self._kept) < stop and (block := next(self._blocks, None)) is not None:
            heard = max(0, min(start - self._first, len(self._kept)))
            self._kept, self._first = np.concatenate([self._kept[heard:], block]), self._first + heard
        return self._kept[max(0, start - self._first) : max(0, stop - self._first)]


def read_sound(video: str) -> Iterator[Int16[np.ndarray, " n"]]:
    """Mono at 16 kHz, block by block; nothing if the video has no sound, or none that can be read further."""
    try:
        for block in read_blocks(video, AUDIO_RATE, channels=1):
            yield np.clip(np.rint(block[:, 0] * 32768), -32768, 32767).astype(np.int16)
    except AudioError:
        return


def measure(pictures: Iterator[np.ndarray], seen: runs.Clip, config: VideoConfig) -> dict[str, np.ndarray]:
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
