"""Clips to draw examples from: stored in shards or rendered on demand, both giving only the frames asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np

from data import synthetic
from data.builder import open_split, read_statistics
from data.records import decode_frames
from data.schema import AUDIO_RATE
from portrait_jax.errors import ConfigError, InputFileError
from portrait_jax.typing import Float, Landmarks, UInt8, Video


@runtime_checkable
class View(Protocol):
    """One clip at the size of the examples."""

    num_frames: int
    fps: float
    attributes: Float[np.ndarray, " a"]
    caption: str

    def frames(self, indices: Sequence[int]) -> Video:
        """Frames by index."""

    def landmarks(self, indices: Sequence[int]) -> Landmarks:
        """Their landmarks in pixels."""

    def audio(self, start: int, frames: int) -> Float[np.ndarray, " n"]:
        """The sound of `frames` consecutive frames, 16 kHz in −1..1, silent where the clip has none (`start` may be negative)."""


@runtime_checkable
class Source(Protocol):
    """What Grain reads (`len`, `[i]`) and how an item becomes a view."""

    identification: Mapping[str, Any]
    min_frames: int

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...

    def view(self, item: Any, rng: np.random.Generator) -> View:
        """The item's clip; `rng` decides what the item leaves open."""


def cut_audio(audio: np.ndarray, start: int, frames: int, fps: float) -> Float[np.ndarray, " n"]:
    """Samples of frames `start` … `start + frames`, zeros beyond both ends; always round(frames · rate / fps) long."""
    length, first = round(frames * AUDIO_RATE / fps), round(start * AUDIO_RATE / fps)
    cut = audio[max(first, 0) : max(first + length, 0)].astype(np.float32) / 32768
    before = min(max(-first, 0), length)
    return np.pad(cut, (before, length - before - len(cut)))


def text(stored: str | bytes) -> str:
    """A record's text, which shards give back as bytes."""
    return stored.decode() if isinstance(stored, bytes) else stored


def fitted(frames: Video, size: int) -> UInt8[np.ndarray, "_ {size} {size} 3"]:
    """Square frames at `size` pixels, averaged where they shrink."""
    if frames.shape[1:3] == (size, size):
        return frames
    method = cv2.INTER_AREA if frames.shape[1] > size else cv2.INTER_LINEAR
    return np.stack([cv2.resize(frame, (size, size), interpolation=method) for frame in frames])


class RecordView:
    """A stored clip, resized if the examples have another size."""

    def __init__(self, record: Mapping[str, Any], size: int, origin: str):
        """`origin` names the data set in messages."""
        self.num_frames, self.fps = int(record["num_frames"]), float(record["fps"])
        self.attributes = record["attributes"]
        self._record, self.size = record, size
        self.caption, self.clip_id = text(record["caption"]), text(record["clip_id"])
        self._name = f"clip {self.clip_id} in {origin}"

    def frames(self, indices: Sequence[int]) -> Video:
        return fitted(decode_frames(self._record["video"], indices, self._name), self.size)

    def landmarks(self, indices: Sequence[int]) -> Landmarks:
        return self._record["landmarks"][list(indices)] * np.float32(self.size / int(self._record["height"]))

    def audio(self, start: int, frames: int) -> Float[np.ndarray, " n"]:
        return cut_audio(self._record["audio"], start, frames, self.fps)


class RecordSource:
    """A split of a prepared data set."""

    def __init__(self, path: str | Path, split: str, size: int):
        """Raises InputFileError or ConfigError as `data.builder.open_split`, ConfigError if frames are not square."""
        statistics = read_statistics(Path(path))
        self._records, self._size, self._origin = open_split(Path(path), split), size, f"{path} ({split})"
        measured = statistics["splits"][split]
        for shape in measured["sizes"]:
            if len(set(shape.split("x"))) != 1:
                raise ConfigError(
                    f"{path} holds frames of {shape} pixels, the loader takes square ones; crop each clip to a square "
                    "around its face, as launch.prepare does, before it becomes a record, and write the data set again"
                )
        self.identification = {"data": measured["hash"]}
        self.min_frames = measured["clip_frames"]["min"]

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Any:
        """Raises InputFileError for a record that is not what was written."""
        try:
            return self._records[index]
        except RuntimeError as error:
            reason = str(error).split(";", 1)[0]
            raise InputFileError(f"record {index} of {self._origin} is damaged ({reason}); prepare it again") from error

    def view(self, item: Any, rng: np.random.Generator) -> View:
        return RecordView(item, self._size, self._origin)


class SyntheticView:
    """A performance that is rendered frame by frame, only where looked at."""

    def __init__(self, identity: synthetic.Identity, performance: synthetic.Performance, size: int):
        self.num_frames, self.fps = len(performance.pose), performance.fps
        self.attributes, self.caption = synthetic.identity_attributes(identity), ""
        self._identity, self._performance, self._size = identity, performance, size
        self._rendered: dict[int, synthetic.Frame] = {}

    def _frame(self, index: int) -> synthetic.Frame:
        if index not in self._rendered:
            pose, expression = self._performance.pose[index], self._performance.expression[index]
            time = index / self.fps
            self._rendered[index] = synthetic.render(self._identity, pose, expression, self._size, time=time)
        return self._rendered[index]

    def frames(self, indices: Sequence[int]) -> Video:
        return np.stack([self._frame(int(index)).image for index in indices])

    def landmarks(self, indices: Sequence[int]) -> Landmarks:
        return np.stack([self._frame(int(index)).landmarks for index in indices])

    def audio(self, start: int, frames: int) -> Float[np.ndarray, " n"]:
        return cut_audio(self._performance.audio, start, frames, self.fps)


class SyntheticSource:
    """Procedural people without a data set on disk: every visit of a person is a new performance."""

    def __init__(self, identities: int, clip_frames: int, split: str, size: int, speech: bool):
        self._identities, self._split, self._size, self._speech = identities, split, size, speech
        self.min_frames = clip_frames
        self.identification = {"data": f"synthetic {split} {identities}×{clip_frames}"}

    def __len__(self) -> int:
        return self._identities

    def __getitem__(self, index: int) -> int:
        return synthetic.split_seed(self._split, int(index))

    def view(self, item: int, rng: np.random.Generator) -> View:
        performance = synthetic.sample_performance(int(rng.integers(1 << 31)), self.min_frames, speech=self._speech)
        return SyntheticView(synthetic.sample_identity(int(item)), performance, self._size)
