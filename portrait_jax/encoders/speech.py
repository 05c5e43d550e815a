"""Speech features per video frame, by the clock: neither the frame rate nor the length of a sound makes them drift.

A vector of the speech encoder's convolutions says what sounds around the middle of its field of samples. A frame reads, by linear
interpolation, the vectors around the middle of the time for which it shows; its place follows from its number, the frame rate
and nothing else. A sound of up to `SECONDS` is encoded as a whole; of a longer one, overlapping pieces of that length, so that
memory stays bounded. Except at the ends of the sound a frame is taken from a piece in which it has `CONTEXT` on either side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from portrait_jax.encoders.wav2vec2 import SAMPLE_RATE, Wav2Vec2Config, normalise_waveform
from portrait_jax.errors import AudioError, ConfigError, ShapeError
from portrait_jax.typing import Array, Float, Int

SECONDS = 30.0
"""Longest sound that is encoded at once. wav2vec 2.0 was trained on utterances of at most about half a minute."""
CONTEXT = 5.0
"""Seconds that a frame inside a long sound has on either side at the least."""
_ROUNDING = 1e-6
"""Frames by which a length may exceed a whole number of frames from rounding alone."""

Encode = Callable[[Array, Array], Array]
"""(normalised samples `1 t`, places ` n`) → hidden states `1 n layers d` of `Wav2Vec2`, entry 0 being the first layer's input."""


@dataclass(frozen=True)
class Clock:
    """Where the frames of a video lie on the vectors of its sound.

    Attributes:
        fps: of the video.
        config: the speech encoder's sizes.
        rate: samples per second.
        centred: whether a frame hears the middle of its time; False: frame 0 hears the first vector and the others as much later
            as they show later, which at 25 frames per second is what interpolation with corners aligned gives.
        whole: silence is heard behind a sound until it lasts a multiple of so many frames. What is heard at once has norms and
            attention over all of its time, so that the silence shows in every frame.
    """

    fps: float
    config: Wav2Vec2Config
    rate: int = SAMPLE_RATE
    centred: bool = True
    whole: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.fps < float("inf"):
            raise ConfigError(f"a frame rate of {self.fps} is not possible; give frames per second, such as 25")

    def frames(self, samples: int) -> int:
        """Frames that a sound of `samples` samples needs: the last one may show after the sound has ended."""
        return max(1, int(np.ceil(samples * self.fps / self.rate - _ROUNDING)))

    def margin(self, samples: int, frames: int) -> int:
        """Frames of sound on either side of a training clip of `frames` frames, of which it has equally many.

        Raises ShapeError if it has not.
        """
        margin, odd = divmod(self.frames(samples) - frames, 2)
        if odd or margin < 0:
            raise ShapeError(
                f"{samples} samples of sound last {self.frames(samples)} frames around a clip of {frames}; give as much before "
                "it as after it (data.audio_margin)"
            )
        return margin

    def sample(self, frame: int) -> int:
        """The first sample that sounds while a frame shows."""
        return round(frame * self.rate / self.fps)

    def places(self, frames: Int[np.ndarray, " n"], origin: int = 0) -> Float[np.ndarray, " n"]:
        """Places of frames among the vectors of a sound that is cut at sample `origin`, for `Wav2Vec2`'s `places`."""
        numbers = np.asarray(frames, np.float64)
        heard = (numbers + 0.5 * self.centred) * self.rate / self.fps
        first = origin + (self.config.shortest - 1) / 2 * self.centred
        return ((heard - first) / self.config.hop).astype(np.float32)


class Piece(NamedTuple):
    """A stretch of a sound that is encoded at once, and the frames that are taken from it.

    Attributes:
        origin, length: its samples.
        start, seen: the first frame that the transformer sees, and how many.
        first, stop: frames that are kept, counted in the whole video.
    """

    origin: int
    length: int
    start: int
    seen: int
    first: int
    stop: int


def plan_pieces(clock: Clock, samples: int, seconds: float = SECONDS, context: float = CONTEXT) -> list[Piece]:
    """Cuts a sound of `samples` samples into pieces of one length, each wholly inside the sound.

    Raises:
        ConfigError: unless context ≥ 0 and a piece is longer than its context on both sides.
    """
    frames, margin, count = clock.frames(samples), round(context * clock.fps), round(seconds * clock.fps)
    if margin < 0 or count <= 2 * margin:
        raise ConfigError(f"pieces of {seconds} s have no middle between {context} s on either side; lengthen them")
    length = clock.sample(count) + clock.config.shortest + clock.config.hop
    if samples <= length or frames <= count:
        return [Piece(0, samples, 0, frames, 0, frames)]
    starts = [*range(0, frames - count, count - 2 * margin), frames - count]
    ends = [start + count - margin for start in starts[:-1]] + [frames]
    return [
        Piece(min(max(clock.sample(start) - clock.config.shortest // 2, 0), samples - length), length, start, count, first, stop)
        for start, first, stop in zip(starts, [0, *ends], ends)
    ]  # fmt: skip


class Level(NamedTuple):
    """Length, mean and deviation of a whole sound, for `normalise_waveform`'s formula."""

    samples: int
    mean: float
    deviation: float


def measure(blocks: Iterable[Float[np.ndarray, " n"]]) -> Level:
    """Reads a sound once, block by block.

    Raises:
        AudioError: if there is no sample.
    """
    count, total, squares = 0, 0.0, 0.0
    for block in blocks:
        wide = block.astype(np.float64)
        count, total, squares = count + len(wide), total + wide.sum(), squares + np.square(wide).sum()
    if count == 0:
        raise AudioError("the sound is empty; give one with samples")
    mean = total / count
    return Level(count, mean, float(np.sqrt(max(squares / count - mean**2, 0.0) + 1e-7)))


def speech_states(
    encode: Encode,
    blocks: Callable[[], Iterable[Float[np.ndarray, " n"]]],
    clock: Clock,
    *,
    seconds: float = SECONDS,
    context: float = CONTEXT,
) -> Iterator[Float[np.ndarray, "g layers d"]]:
    """Hidden states of all layers for every frame, in order, one piece of the sound at a time.

    Args:
        encode: the network; jit it, for all pieces have one shape.
        blocks: starts reading the sound anew: mono, `clock.rate` Hz. It is read twice.
        seconds, context: of pieces, see `plan_pieces`.

    Raises:
        AudioError: for a sound without samples, or one too short for a vector.
    """
    level = measure(blocks())
    if level.samples < clock.config.shortest:
        raise AudioError(f"{level.samples} samples are too few for speech features; give {clock.config.shortest}")
    frames = clock.frames(level.samples)
    # It has the sound's own mean, so that it is zero once that is taken off.
    silence = np.full(clock.sample(-frames % clock.whole), level.mean, np.float32)
    pieces = plan_pieces(clock, level.samples + len(silence), seconds, context)
    for piece, samples in zip(pieces, _cut(chain(blocks(), [silence]), pieces)):
        places = clock.places(piece.start + np.arange(piece.seen), piece.origin)
        wave = ((samples.astype(np.float64) - level.mean) / level.deviation).astype(np.float32)
        states = np.asarray(encode(jnp.asarray(wave)[None], jnp.asarray(places)))[0]
        if piece.first < frames:
            yield states[piece.first - piece.start : min(piece.stop, frames) - piece.start, 1:]


def _cut(blocks: Iterable[np.ndarray], pieces: list[Piece]) -> Iterator[np.ndarray]:
    """The samples of the pieces; what no later piece needs is forgotten."""
    held, begin, source = np.zeros(0, np.float32), 0, iter(blocks)
    for piece in pieces:
        parts = [held[piece.origin - begin :]]
        begin, size = piece.origin, len(parts[0])
        if size < 0 or piece.origin < 0:
            raise AudioError("pieces of a sound must lie in order")
        while size < piece.length and (block := next(source, None)) is not None:
            parts.append(block)
            size += len(block)
        held = np.concatenate(parts)
        if len(held) < piece.length:
            raise AudioError("the sound is shorter when it is read again; leave the file alone while it is read")
        yield held[: piece.length]


def frame_windows(
    states: Float[np.ndarray, "g layers d"], frames: Int[np.ndarray, " f"], reach: int
) -> Float[np.ndarray, "f win layers d"]:
    """States of each frame and of `reach` frames on either side; at the ends of the sound the end repeats.

    `states` may be a memory map: what is not asked for is not read.
    """
    around = np.asarray(frames)[:, None] + np.arange(-reach, reach + 1)
    return np.stack([states[row] for row in np.clip(around, 0, len(states) - 1)])


def clip_windows(
    states: Float[Array, "b g layers d"], margin: int, frames: int, reach: int
) -> Float[Array, "b f win layers d"]:
    """The same of a training clip whose sound begins `margin` frames before its first picture and ends as many after.

    Raises:
        ConfigError: if the windows reach beyond the margin.
    """
    if reach > margin:
        raise ConfigError(
            f"windows of {reach} frames on either side reach beyond {margin} frames of sound around a clip; raise "
            "data.audio_margin"
        )
    around = margin + np.arange(frames)[:, None] + np.arange(-reach, reach + 1)
    return states[:, around]


def heard_windows(
    encode: Encode, samples: Float[Array, "b t"], clock: Clock, frames: int, reach: int
) -> Float[Array, "b f win layers d"]:
    """Hidden states around each frame of training clips, whose sound lasts equally long before and after the frames.

    Raises ShapeError if it does not, ConfigError if the windows reach beyond it.
    """
    margin = clock.margin(samples.shape[1], frames)
    places = jnp.asarray(clock.places(np.arange(frames + 2 * margin)))
    return clip_windows(encode(normalise_waveform(samples), places)[:, :, 1:], margin, frames, reach)
