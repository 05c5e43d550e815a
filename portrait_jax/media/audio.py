"""Sound of any audio or video file as float32 samples in [−1, 1], in time with the pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

import av
import numpy as np

from portrait_jax.errors import AudioError
from portrait_jax.media.files import FilePath, checked_input
from portrait_jax.typing import Float

LAYOUTS = {1: "mono", 2: "stereo"}
RATE, CHANNELS = 48000, 2
"""Of sound that goes into a video."""
_MAX_SECONDS = 4 * 3600
_DRIFT = 0.04
"""Seconds by which time stamps may differ from the count of samples before silence is filled in."""
_SILENCE = 1e-3


class AudioClip(NamedTuple):
    """Samples (n, channels) in [−1, 1] at `rate` Hz; sample 0 sounds when the first frame shows."""

    samples: Float[np.ndarray, "n channels"]
    rate: int

    @property
    def duration(self) -> float:
        """Seconds."""
        return len(self.samples) / self.rate


def read_audio(path: FilePath, rate: int = 16000) -> Float[np.ndarray, " n"]:
    """Mono samples of an audio or video file; see `read_clip`."""
    return read_clip(path, rate, channels=1).samples[:, 0]


def read_clip(path: FilePath, rate: int = RATE, channels: int = CHANNELS) -> AudioClip:
    """The whole sound of a file in memory; see `read_blocks`."""
    return AudioClip(np.concatenate(list(read_blocks(path, rate, channels))), rate)


def read_blocks(
    path: FilePath, rate: int = RATE, channels: int = CHANNELS
) -> Iterator[Float[np.ndarray, "n channels"]]:
    """Decodes and resamples the first audio stream, a block of at most about a second in memory at a time.

    In a video file, sound before the first frame is cut and a later start is filled with silence, so that sample 0
    belongs to the first frame; so are gaps in the sound.

    Raises:
        InputFileError: missing or empty file.
        AudioError: no audio stream, not decodable, truncated, or longer than four hours.
    """
    path = checked_input(path, "audio")
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise AudioError(f"{path} has no audio stream; give a file with sound, or leave the audio out")
            origin = _first_frame_time(container)
        with av.open(str(path)) as container:
            found = False
            for piece in _timed_pieces(container, rate, channels, origin, path):
                found = True
                yield np.ascontiguousarray(np.clip(piece, -1, 1).T, np.float32)
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise AudioError(f"the sound of {path} cannot be decoded ({reason}); convert it to WAV first") from error
    if not found:
        raise AudioError(f"{path} holds no decodable sound; convert it to WAV and try again")


def check_audible(
    blocks: Iterable[Float[np.ndarray, "_ ..."]],
    rate: int = RATE,
    source: object = "the audio",
    min_seconds: float | int = 0.5,
) -> None:
    """Raises AudioError if the sound is shorter than `min_seconds` or silent throughout (peak below 0.001).

    Args:
        blocks: the whole sound, as `read_blocks` gives it.
    """
    count, peak = 0, np.float32(0)
    for block in blocks:
        count += len(block)
        peak = np.maximum(peak, np.abs(block).max(initial=0))  # Unlike Python's max, it keeps what is not a number.
    if count < min_seconds * rate:
        raise AudioError(
            f"{source} lasts {count / rate:.2f} s; at least {min_seconds:g} s are needed: give a longer recording"
        )
    if not np.isfinite(peak):
        raise AudioError(f"{source} holds samples that are not finite; export it again")
    if peak < _SILENCE:
        raise AudioError(f"{source} is silent; give a recording of speech, or leave it out")


def _first_frame_time(container: av.container.InputContainer) -> float | None:
    """Seconds of the first picture on the file's clock; None for a file without pictures (covers do not count)."""
    moving = [stream for stream in container.streams.video if stream.frames != 1]
    if not moving:
        return None
    first = next(container.decode(moving[0]), None)
    return None if first is None else first.time


def _timed_pieces(
    container: av.container.InputContainer, rate: int, channels: int, origin: float | None, path: FilePath
) -> Iterator[np.ndarray]:
    """Resampled pieces (channels, n) without a hole from the time `origin` on."""
    resampler = av.AudioResampler(format="fltp", layout=LAYOUTS[channels], rate=rate)
    position: int | None = None  # The next sample's place behind `origin`; below zero it is not heard.
    for frame in chain(container.decode(container.streams.audio[0]), [None]):
        pieces = [piece.to_ndarray() for piece in resampler.resample(frame)]
        missing = 0
        if frame is not None and frame.time is not None:
            # Without pictures the first sample is time zero, wherever the file's clock starts.
            origin = frame.time if origin is None else origin
            due, tolerance = round((frame.time - origin) * rate), _DRIFT * rate
            if position is None:
                position, tolerance = min(due, 0), 0
            if due - position > tolerance:
                missing = due - position
        position = position or 0
        for samples in chain(_silence(missing, channels, rate), pieces):
            yield samples[:, max(0, -position) :]
            position += samples.shape[1]
            if position > _MAX_SECONDS * rate:
                raise AudioError(f"{path} lasts longer than {_MAX_SECONDS // 3600} hours; cut it first")


def _silence(count: int, channels: int, longest: int) -> Iterator[np.ndarray]:
    """Pieces of silence, `count` samples in all: a file that states a gap of hours must not fill the memory."""
    for first in range(0, count, longest):
        yield np.zeros((channels, min(longest, count - first)), np.float32)
