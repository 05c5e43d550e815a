"""Joins finished videos and adds sound, both streamed: memory does not grow with their length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from fractions import Fraction

import av
import numpy as np

from portrait_jax.errors import InputFileError, VideoError
from portrait_jax.media.audio import CHANNELS, LAYOUTS, RATE, AudioClip, read_blocks
from portrait_jax.media.files import FilePath, atomic_output, checked_input
from portrait_jax.media.h264 import exact_rate

_AUDIO_BLOCK = 1024
"""Samples of one AAC frame."""


def concat_segments(
    paths: Sequence[FilePath], output: FilePath, audio: FilePath | AudioClip | None = None, fps: float | int = 25.0
) -> None:
    """Joins videos written by `video.VideoWriter` without re-encoding and adds sound (AAC) in time with the first frame.

    Args:
        paths: segments of one size, in order.
        audio: a file whose sound is used, decoded as it is written (see `audio.read_blocks`), or samples; it ends with
            the last frame. None: no sound.
        fps: the segments' frame rate.

    Raises:
        InputFileError: no or missing segments. VideoError: segments of different sizes, or damaged. AudioError.
    """
    if not paths:
        raise InputFileError(f"no segments to join into {output}; write at least one")
    rate = exact_rate(fps)
    with atomic_output(output) as partial, ExitStack() as stack:
        container = stack.enter_context(av.open(str(partial), "w", options={"movflags": "+faststart"}))
        first = _opened(stack, paths[0]).streams.video[0]
        video = container.add_stream_from_template(first)
        track = None if audio is None else _SoundTrack(container, audio)
        frames = 0
        for path in paths:
            frames += _append(container, video, path, frames, rate, first)
            if track is not None:
                track.write_until(frames / rate)
        if track is not None:
            track.finish()


def _opened(stack: ExitStack, path: FilePath) -> av.container.InputContainer:
    try:
        segment = stack.enter_context(av.open(str(checked_input(path, "segment"))))
    except (av.FFmpegError, OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if not segment.streams.video:
        raise VideoError(f"segment {path} has no pictures; make it again")
    return segment


def _unreadable(path: FilePath, error: Exception) -> VideoError:
    return VideoError(f"segment {path} cannot be read ({getattr(error, 'strerror', None) or error}); make it again")


def _append(container, video, path: FilePath, offset: int, rate: Fraction, like) -> int:
    """Copies a segment's packets behind `offset` frames; returns how many frames it has."""
    with ExitStack() as stack:
        segment = _opened(stack, path)
        stream = segment.streams.video[0]
        if (stream.width, stream.height) != (like.width, like.height):
            raise VideoError(
                f"segment {path} is {stream.width}×{stream.height}, the first one {like.width}×{like.height}; "
                "join videos of one size"
            )
        count, start = 0, None
        try:
            for packet in segment.demux(stream):
                if packet.pts is None:
                    continue
                start = packet.pts if start is None else start
                number = offset + round((packet.pts - start) * packet.time_base * rate)
                packet.stream, packet.time_base = video, 1 / rate
                packet.pts = packet.dts = number  # Without B-frames both clocks agree.
                packet.duration = 1
                container.mux(packet)
                count += 1
        except av.FFmpegError as error:
            raise _unreadable(path, error) from error
    return count


class _SoundTrack:
    """Decodes and encodes sound step by step beside the pictures, so that a long file is interleaved."""

    def __init__(self, container, sound: FilePath | AudioClip):
        self._blocks: Iterator[np.ndarray]
        if isinstance(sound, AudioClip):
            self._blocks, self._rate, channels = iter([sound.samples]), sound.rate, sound.samples.shape[1]
        else:
            self._blocks, self._rate, channels = read_blocks(sound), RATE, CHANNELS
        self._container, self._position = container, 0
        self._rest = np.zeros((0, channels), np.float32)  # Decoded, and to be encoded next.
        self._stream = container.add_stream("aac", rate=self._rate, layout=LAYOUTS[channels])

    def write_until(self, seconds: Fraction) -> None:
        """Encodes what sounds before `seconds`, or all that is left."""
        end = round(seconds * self._rate)
        while self._position < end:
            if len(self._rest) == 0:
                block = next(self._blocks, None)
                if block is None:
                    return
                self._rest = block
                continue
            count = min(_AUDIO_BLOCK, end - self._position, len(self._rest))
            self._encode(self._rest[:count])
            self._rest = self._rest[count:]

    def _encode(self, samples: np.ndarray) -> None:
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T), "fltp", self._stream.layout.name)
        # Without explicit stamps the encoder's start-up delay is not written, and the sound comes late.
        frame.sample_rate, frame.pts, frame.time_base = self._rate, self._position, Fraction(1, self._rate)
        self._container.mux(self._stream.encode(frame))
        self._position += len(samples)

    def finish(self) -> None:
        """Writes what the encoder still holds."""
        self._container.mux(self._stream.encode(None))
