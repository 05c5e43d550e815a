"""Sound of any audio or video file as float32 samples in [−1, 1], in time with the pictures."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

import av
import numpy as np

from portrait_jax.errors import AudioError
from portrait_jax.media.files import FilePath, checked_input
from portrait_jax.typing import Float

LAYOUTS = {1: "mono", 2: "stereo"}
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


def read_clip(path: FilePath, rate: int = 48000, channels: int = 2) -> AudioClip:
    """Decodes and resamples the first audio stream.

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
            pieces = list(_timed_pieces(container, rate, channels, origin, path))
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise AudioError(f"the sound of {path} cannot be decoded ({reason}); convert it to WAV first") from error
    if not pieces:
        raise AudioError(f"{path} holds no decodable sound; convert it to WAV and try again")
    samples = np.clip(np.concatenate(pieces, axis=1), -1, 1)
    return AudioClip(np.ascontiguousarray(samples.T, np.float32), rate)


def check_audible(
    samples: Float[np.ndarray, "n ..."], rate: int, source: object = "the audio", min_seconds: float | int = 0.5
) -> None:
    """Raises AudioError if the sound is shorter than `min_seconds` or silent throughout (peak below 0.001)."""
    seconds = len(samples) / rate
    if seconds < min_seconds:
        raise AudioError(f"{source} lasts {seconds:.2f} s; at least {min_seconds:g} s are needed")
    if not np.isfinite(samples).all():
        raise AudioError(f"{source} holds samples that are not finite; export it again")
    if np.abs(samples).max() < _SILENCE:
        raise AudioError(f"{source} is silent; give a recording of speech")


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
        if frame is not None and frame.time is not None:
            # Without pictures the first sample is time zero, wherever the file's clock starts.
            origin = frame.time if origin is None else origin
            due, tolerance = round((frame.time - origin) * rate), _DRIFT * rate
            if position is None:
                position, tolerance = min(due, 0), 0
            if due - position > tolerance:
                pieces.insert(0, np.zeros((channels, due - position), np.float32))
        position = position or 0
        for samples in pieces:
            yield samples[:, max(0, -position) :]
            position += samples.shape[1]
        if position > _MAX_SECONDS * rate:
            raise AudioError(f"{path} lasts longer than {_MAX_SECONDS // 3600} hours; cut it first")
