"""Videos in and out with PyAV (FFmpeg inside, no system program): streamed, constant frame rate, never half-written."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import av
import numpy as np

from portrait_jax.errors import InputFileError, ShapeError, VideoError
from portrait_jax.media.files import FilePath, atomic_output, checked_input
from portrait_jax.media.h264 import EXACT, MAX_FPS, Encoder
from portrait_jax.typing import Image, Video

MIN_SIDE, MAX_SIDE = 16, 8192
_LONGEST_PAUSE = 60.0
"""Seconds between two frames beyond which time stamps are taken for broken."""
_FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}


class VideoInfo(NamedTuple):
    """What a file says about itself; sizes after rotation, `fps` is the average rate, `frames` None if not stated."""

    width: int
    height: int
    fps: float
    frames: int | None
    has_audio: bool
    duration: float


def probe(path: FilePath) -> VideoInfo:
    """Reads a video's properties and its first frame.

    Raises:
        InputFileError: missing or empty file.
        VideoError: not a video, or no frame can be decoded.
    """
    with _open(path) as (container, stream):
        fps = _frame_rate(stream, path)
        image = next(_decode(container, stream, path))[1]
        frames = stream.frames or None
        stated = stream.duration and float(stream.duration * stream.time_base)
        duration = stated or (container.duration or 0) / av.time_base or (frames or 1) / fps
        return VideoInfo(image.shape[1], image.shape[0], fps, frames, bool(container.streams.audio), duration)


def read_frames(path: FilePath, fps: float | int | None = None) -> Iterator[Image]:
    """Streams a video's frames, one in memory at a time, rotation metadata applied.

    Args:
        fps: constant rate to resample to: at time i/fps (from the first frame on) the frame with the nearest time
            stamp. None: every frame of the file as it comes.

    Raises:
        InputFileError: missing or empty file.
        VideoError: not a video, truncated or damaged (the message holds the frame), or an absurd rate or size.
    """
    if fps is not None and not 0 < fps <= MAX_FPS:
        raise VideoError(f"cannot resample {path} to {fps} frames per second; give a rate from 1 to {MAX_FPS}")
    with _open(path) as (container, stream):
        stream.thread_type = "AUTO"
        timed = _decode(container, stream, path)
        if fps is None:
            yield from (image for _, image in timed)
        else:
            yield from _resampled(timed, fps, path)


def read_video(path: FilePath, fps: float | int | None = None, max_frames: int | None = None) -> Video:
    """Reads a whole video, or its first `max_frames` frames, into memory. See `read_frames`."""
    return np.stack(list(islice(read_frames(path, fps), max_frames)))


@contextmanager
def _open(path: FilePath) -> Iterator[tuple[av.container.InputContainer, av.video.stream.VideoStream]]:
    name = str(checked_input(path, "video"))
    try:
        container = av.open(name)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(
            f"{name} is not a video that can be read ({_reason(error)}); it may be truncated or of another kind: "
            "give an MP4, MOV, MKV or WebM file"
        ) from error
    with container:
        if not container.streams.video:
            raise VideoError(f"{name} has no video stream; give a file with pictures")
        stream = container.streams.video[0]
        if max(stream.width, stream.height) > MAX_SIDE or min(stream.width, stream.height) < MIN_SIDE:
            raise VideoError(
                f"{name} is {stream.width}×{stream.height} pixels; {MIN_SIDE} to {MAX_SIDE} a side are read, rescale it"
            )
        yield container, stream


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _frame_rate(stream: av.video.stream.VideoStream, path: FilePath) -> float:
    rate = stream.average_rate or stream.guessed_rate
    if not rate or not 0 < rate <= 10 * MAX_FPS:
        raise VideoError(f"{path} states no usable frame rate ({rate}); re-encode it at a constant rate")
    return float(rate)


def _decode(container, stream, path: FilePath | str) -> Iterator[tuple[float, Image]]:
    """(seconds, image) of every frame; turns FFmpeg's errors and silent early ends into VideoError."""
    period, count = 1 / _frame_rate(stream, path), 0
    advice = "the file is truncated or damaged; download or export it again"
    try:
        for frame in container.decode(stream):
            yield count * period if frame.time is None else frame.time, _upright(frame)
            count += 1
    except av.FFmpegError as error:
        stated = f" of {stream.frames}" if stream.frames else ""
        raise VideoError(f"{path}: decoding failed at frame {count}{stated} ({_reason(error)}); {advice}") from error
    if count == 0:
        raise VideoError(f"{path} holds no frame that can be decoded; {advice}")
    # Edit lists may drop a few stated frames; a larger loss means that data is missing.
    if count < stream.frames - max(8, stream.frames // 20):
        raise VideoError(f"{path} ends at frame {count} of {stream.frames}; {advice}")


def _upright(frame: av.VideoFrame) -> np.ndarray:
    image = frame.to_ndarray(format="rgb24", interpolation=EXACT)
    quarter_turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(image, quarter_turns)) if quarter_turns else image


def _resampled(timed: Iterator[tuple[float, Image]], fps: float | int, path: FilePath) -> Iterator[Image]:
    before, shown = next(timed)
    start, period, emitted = before, 0.0, 0
    for time, image in timed:
        period = time - before
        if period > _LONGEST_PAUSE:
            raise VideoError(f"{path}: time stamps jump by {period:.0f} s at frame {emitted}; re-encode it")
        while emitted / fps < (before + time) / 2 - start - 1e-9:
            yield shown
            emitted += 1
        before, shown = time, image
    for _ in range(emitted, max(1, round((before + period - start) * fps))):
        yield shown


class VideoWriter:
    """Writes H.264 frame by frame; the file appears at `path` on success only.

        with VideoWriter("out.mp4", fps=25) as writer:
            writer.write(image)

    No B-frames: segments then join without edit lists, and every frame's time is its index / fps.
    """

    def __init__(
        self,
        path: FilePath,
        fps: float | int,
        size: tuple[int, int] | None = None,
        crf: int = 18,
        gop: int | None = None,
    ):
        """`size` is (height, width), None takes the first frame's; odd sizes are padded to even by edge pixels."""
        self.path, self.size, self.frames = Path(path), size, 0
        if self.path.suffix.lower() not in _FORMATS:
            raise InputFileError(f"cannot write a video as '{path}'; the name must end in {', '.join(_FORMATS)}")
        self._encoder: Encoder | None = None
        self._encoder_arguments = (fps, crf, gop)
        self._exit = ExitStack()

    def __enter__(self) -> VideoWriter:
        self._partial = self._exit.enter_context(atomic_output(self.path))
        return self

    def write(self, image: Image) -> None:
        """Appends a frame. Raises ShapeError if its size is not the video's."""
        self.size = self.size or image.shape[:2]
        if image.shape[:2] != tuple(self.size):
            raise ShapeError(f"frame {self.frames} of {self.path} is {image.shape[:2]}, the video {tuple(self.size)}")
        if self._encoder is None:
            kind = _FORMATS[self.path.suffix.lower()]
            self._encoder = Encoder(str(self._partial), kind, self.size, *self._encoder_arguments)
        self._encoder.encode(image)
        self.frames += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self._encoder is not None:
                self._encoder.close()
            if kind is None and self.frames == 0:
                raise VideoError(f"no frame was written to {self.path}")
        except BaseException as closing:
            self._exit.__exit__(type(closing), closing, closing.__traceback__)
            raise
        self._exit.__exit__(kind, error, traceback)


def mp4_bytes(frames: Iterable[Image], fps: float | int, gop: int = 12, crf: int = 18) -> bytes:
    """Encodes frames as an MP4 in memory, with a key frame every `gop` frames for quick random access."""
    buffer, encoder = io.BytesIO(), None
    for image in frames:
        encoder = encoder or Encoder(buffer, "mp4", image.shape[:2], fps, crf, gop)
        encoder.encode(image)
    if encoder is None:
        raise VideoError("no frames to encode")
    encoder.close()
    return buffer.getvalue()
