"""Sequences of motion latents: a folder of files, one clip each, or the curves of procedural performances.

A file is `.npz` or `.safetensors` with `motion`, floats "f d", and maybe `emotion`, a whole number from 0 on. Below a folder
the splits are the sub-folders `train` and `test`; a folder without them is a training set.
"""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data import synthetic
from portrait_jax.errors import CheckpointError, ConfigError, InputFileError, listed
from portrait_jax.interchange.safetensors_files import SafetensorsFile
from portrait_jax.media.arrays import opened
from portrait_jax.media.files import atomic_output, checked_input
from portrait_jax.progress import Bars
from portrait_jax.training.params import save_params
from portrait_jax.typing import Float

SUFFIXES = (".npz", ".safetensors")
LIMIT = 1 << 30
"""Bytes of one sequence that are read."""
SUBNET = "motion_statistics"
"""Sub-network of `portrait_jax.motion` that holds what standardises latents."""
SMALL = 1e-3
"""Least deviation of a channel, relative to the mean one: a constant channel must not be divided by nothing."""
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}

Motion = Float[np.ndarray, "f d"]


class Clip(NamedTuple):
    """What is known of a sequence before it is read."""

    path: Path
    frames: int
    width: int
    emotion: int
    """−1: none."""


class MotionView:
    """One sequence; the part of `data.views.View` that motion has."""

    def __init__(self, motion: Motion, emotion: int):
        self.num_frames, self.emotion, self._motion = len(motion), emotion, motion

    def motion(self, start: int, frames: int) -> Motion:
        """Consecutive frames."""
        return self._motion[start : start + frames]


class MotionSource:
    """The sequences of a split of a folder, each read when it is asked for."""

    def __init__(self, path: str | Path, split: str, emotions: int):
        """`emotions`: labels run from 0 to below it; 0 ignores them.

        Raises:
            InputFileError: there is no sequence, or one is damaged or does not fit the others.
            ConfigError: a label is out of range.
        """
        self._clips = [header(file) for file in files_of(Path(path), split)]
        widths = sorted({clip.width for clip in self._clips})
        if len(widths) > 1:
            raise InputFileError(f"{path} holds latents of {widths} channels; keep one motion encoder's in a folder")
        if emotions and (wrong := [clip.path.name for clip in self._clips if clip.emotion >= emotions]):
            raise ConfigError(f"{path}: labels beyond data.emotions {emotions} in {listed(wrong)}; raise it")
        facts = [[clip.path.name, *clip[1:]] for clip in self._clips]
        self.identification: Mapping[str, Any] = {"data": hashlib.sha256(json.dumps(facts).encode()).hexdigest()}
        self.min_frames = min(clip.frames for clip in self._clips)

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> Clip:
        return self._clips[int(index)]

    def view(self, item: Clip, rng: np.random.Generator) -> MotionView:
        """The item's sequence."""
        return MotionView(read_motion(item.path), item.emotion)


class PerformanceSource:
    """Pose and expression of procedural performances in place of latents: a motion prior can be tried without an encoder.

    Pose is in its own ranges' units, so that all channels are of about one size.
    """

    def __init__(self, split: str, frames: int):
        self._split, self._frames, self.min_frames = split, frames, frames
        self.identification: Mapping[str, Any] = {"data": f"performances {split} {frames}"}

    def __len__(self) -> int:
        return 1 << 20

    def __getitem__(self, index: int) -> int:
        return synthetic.split_seed(self._split, int(index))

    def view(self, item: int, rng: np.random.Generator) -> MotionView:
        """The item's curves."""
        return MotionView(performance_motion(int(item), self._frames), -1)


POSE_UNITS = np.array([35.0, 20.0, 20.0, 0.1, 0.1, 0.1], np.float32)
POSE_MIDDLE = np.array([0.0, 0.0, 0.0, 0.5, 0.5, 0.45], np.float32)


def performance_motion(seed: int, frames: int) -> Motion:
    """Pose and expression of one procedural performance, one row per frame."""
    performance = synthetic.sample_performance(seed, frames)
    return np.concatenate([(performance.pose - POSE_MIDDLE) / POSE_UNITS, performance.expression], axis=1)


def open_motion(path: str, split: str, frames: int, emotions: int) -> MotionSource | PerformanceSource:
    """A folder of sequences, or without one performances of `frames` each."""
    return MotionSource(path, split, emotions) if path else PerformanceSource(split, frames)


def window(view: MotionView, rng: np.random.Generator, frames: int) -> dict[str, np.ndarray]:
    """A random window, and its clip's label."""
    start = int(rng.integers(view.num_frames - frames + 1))
    return {"motion": view.motion(start, frames).astype(np.float32), "emotion": np.asarray(view.emotion, np.int32)}


def files_of(folder: Path, split: str) -> list[Path]:
    """The sequences of a split, by name; raises InputFileError if there are none."""
    parted = any((folder / name).is_dir() for name in ("train", "test"))
    place = folder / split if parted else folder
    found = sorted(path for path in place.glob("*") if path.suffix in SUFFIXES) if parted or split == "train" else []
    # What `write_statistics` leaves beside them is no sequence.
    found = [path for path in found if path.name != "statistics.safetensors"]
    if not found:
        raise InputFileError(
            f"{place} holds no sequences for '{split}' ({' or '.join(SUFFIXES)} files); see docs/motion_prior.md"
        )
    return found


def header(path: Path) -> Clip:
    """What a file holds, without its latents.

    Raises:
        InputFileError: the file is damaged, or is no sequence of finite length and width.
    """
    with readable(path):
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                shape, dtype = npy_header(archive, "motion")
                small = "emotion.npy" in archive.namelist() and math.prod(npy_header(archive, "emotion")[0]) == 1
            label = load_npz(path, "emotion") if small else -1
        else:
            opened = SafetensorsFile(path)
            shape, dtype = opened.specs["motion"].shape, opened.specs["motion"].dtype
            small = "emotion" in opened.specs and math.prod(opened.specs["emotion"].shape) == 1
            label = opened.read("emotion") if small else -1
        emotion = int(np.asarray(label).reshape(()))
    if len(shape) != 2 or not all(shape) or dtype.kind != "f" or math.prod(shape) * dtype.itemsize > LIMIT:
        raise InputFileError(
            f"{path}: motion is {dtype}{tuple(shape)}; give floats (frames, channels) of at most {LIMIT >> 20} MiB"
        )
    if emotion < -1:
        raise InputFileError(f"{path}: emotion {emotion} is no label; give a number from 0 on, or leave it out")
    return Clip(path, shape[0], shape[1], emotion)


def read_motion(path: Path) -> Motion:
    """A file's latents as float32; `header` has bounded them. Raises InputFileError if they are damaged or not finite."""
    header(path)
    with readable(path):
        stored = load_npz(path, "motion") if path.suffix == ".npz" else SafetensorsFile(path).read("motion")
    motion = np.ascontiguousarray(stored, np.float32)
    if not np.isfinite(motion).all():
        raise InputFileError(f"{path}: {int((~np.isfinite(motion)).sum())} latents are not finite; extract them again")
    return motion


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns the many ways in which a file can be broken into one."""
    checked_input(path, "motion")
    try:
        yield
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, CheckpointError) as error:
        raise InputFileError(f"{path} is no sequence of motion latents ({error}); extract it again") from error


def npy_header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of an array in an npz; nothing else is decompressed."""
    with archive.open(f"{name}.npy") as member:
        version = np.lib.format.read_magic(member)
        if version not in HEADERS:
            raise ValueError(f"{name} is stored in version {version}")
        shape, _, dtype = HEADERS[version](member)
    return shape, dtype


def load_npz(path: Path, name: str) -> np.ndarray:
    """One array of an npz; never pickled objects."""
    with opened(path) as stored:
        return stored[name]


def write_statistics(folder: Path, output: Path) -> dict[str, Any]:
    """Measures the training sequences of a folder and writes `statistics.safetensors`, which stages start from.

    One pass, one sequence in memory at a time.

    Args:
        folder: of sequences.
        output: the folder for the file; it may be the same.

    Returns:
        `{"sequences", "frames", "channels"}`.

    Raises:
        InputFileError: as `MotionSource`, for the first broken file.
    """
    source = MotionSource(folder, "train", 0)
    width = source[0].width
    count, total, squares = 0, np.zeros(width), np.zeros(width)
    with Bars("sequences") as bars:
        for index in bars.track(range(len(source)), "measuring", len(source)):
            motion = read_motion(source[index].path).astype(np.float64)
            count, total, squares = count + len(motion), total + motion.sum(0), squares + np.square(motion).sum(0)
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0.0))
    std = np.maximum(deviation, SMALL * deviation.mean()) if deviation.any() else np.ones(width)
    params = {SUBNET: {"mean": mean.astype(np.float32), "std": std.astype(np.float32)}}
    found = {"sequences": len(source), "frames": count, "channels": width}
    save_params(output / "statistics.safetensors", params, found)
    return found


def write_motion(path: Path, motion: Motion, emotion: int = -1) -> None:
    """Writes one sequence as npz, whole or not at all: what a motion encoder gives for a clip."""
    label = {"emotion": np.int32(emotion)} if emotion >= 0 else {}
    with atomic_output(path) as partial:
        np.savez(partial, motion=np.asarray(motion, np.float32), **label)
