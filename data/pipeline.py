"""Batches for training: deterministic in the seed, the same for any number of hosts and threads, resumable by a number.

The global batch number k holds the same rows, in the same order and with the same augmentation, however many processes
share it; process i of n gets the i-th block of rows. So the iterator's state is the number of the next batch alone.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import cv2
import grain
import jax
import numpy as np
from ml_collections import ConfigDict

from data import augment, motion
from data.skeletons import check_drop, check_skeletons, drawn, joints_of
from data.stylised import check_copies, copied_frames, draw_copy
from data.views import RecordSource, Source, SyntheticSource, View
from portrait_jax.errors import CheckpointError, ConfigError, listed, nearest
from portrait_jax.face.drawing import STYLES, draw_landmarks
from portrait_jax.face.five_points import aligned_face
from portrait_jax.face.masks import expression_mask, face_rectangle, oval_cells
from portrait_jax.face.topology import NUM_LANDMARKS
from portrait_jax.interchange.processors import Tokenizer, load_tokenizer
from portrait_jax.settings import from_mapping

Batch = dict[str, np.ndarray]

EPOCHS = 1 << 32
"""For ever. Grain's own endless repeat overflows when a data set of one clip is sliced."""


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """`config.data`: what is loaded.

    Attributes:
        kind: "clips" (for what landmarks drive: with drawings and masks), "faces" (for what pictures drive: without),
            "speakers" (for what sound drives: with the reference's face and the rectangle around faces), "images"
            (autoencoders), "probe" (image, landmarks, identity attributes), "motion" (sequences of latents, `data.motion`), or
            "synthetic": clips that are rendered on demand.
        path: a folder made by `launch.prepare`; empty: `identities` people, rendered on demand, `clip_frames` a visit. For
            "motion" a folder of sequences; empty: procedural performances of `clip_frames`.
        size: of the square frames, pixels; stored clips of another size are resized.
        frame_stride: least and greatest step between the frames of an example, in frames of the clip.
        drawing: style of `control` (`portrait_jax.face.drawing`).
        latent_factor: pixels per mask cell.
        audio: adds the sound of the frames; needs a frame stride of 1.
        audio_margin: frames of sound before the first frame and after the last, silent where the clip has none.
        face_size: side in pixels of the reference's face, cut out and aligned, of "speakers".
        tokenizer: a folder or `hub:` name of a tokenizer: adds `text`, token ids of the clips' captions; empty: no text.
        text_length: how many token ids.
        caption: of clips that have none.
        color_jitter, crop_jitter: strength of the augmentations, 0 = off (`data.augment`).
        emotions: how many labels sequences of motion may have; 0 ignores labels.
        stylised: a folder with stylised copies of stored clips (`data.stylised`): adds `driving`, the frames in their own style.
        skeletons: a folder with skeletons of stored clips (`data.skeletons`): adds `skeletons`, drawings of them.
        skeleton_drop: share of the limbs that drawings leave out.
        stylised_share: how often an example is taken from a copy, if its clip has one.
    """

    kind: str = "clips"
    path: str = ""
    size: int = 128
    frame_stride: tuple[int, int] = (1, 1)
    drawing: str = "smooth"
    latent_factor: int = 8
    audio: bool = False
    audio_margin: int = 0
    face_size: int = 112
    tokenizer: str = ""
    text_length: int = 77
    caption: str = ""
    color_jitter: float = 0.0
    crop_jitter: float = 0.0
    identities: int = 100_000
    clip_frames: int = 24
    emotions: int = 0
    skeletons: str = ""
    skeleton_drop: float = 0.1
    stylised: str = ""
    stylised_share: float = 0.5

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"data.kind '{self.kind}' does not exist{nearest(self.kind, list(KINDS))}")
        if self.kind == "synthetic" and self.path:
            raise ConfigError("data.kind 'synthetic' renders on demand; use kind 'clips' for the folder data.path")
        if self.drawing not in STYLES:
            raise ConfigError(f"data.drawing '{self.drawing}' does not exist{nearest(self.drawing, list(STYLES))}")
        if self.size % self.latent_factor or self.size % 2:
            raise ConfigError(f"data.size {self.size} is odd or no multiple of data.latent_factor {self.latent_factor}")
        if not 1 <= self.frame_stride[0] <= self.frame_stride[1]:
            raise ConfigError(f"data.frame_stride {self.frame_stride} must be (least, greatest), from 1 on")
        if self.audio_margin < 0:
            raise ConfigError(f"data.audio_margin is {self.audio_margin}; give a number of frames from 0 on")
        if not 0 <= self.stylised_share <= 1:
            raise ConfigError(f"data.stylised_share {self.stylised_share} is a share of the examples; give 0 to 1")
        check_drop(self.skeleton_drop)
        for name in ("stylised", "skeletons"):
            if getattr(self, name) and (not self.path or self.kind not in ("clips", "faces")):
                raise ConfigError(
                    f"data.{name} names what belongs to stored clips; give their data.path, and kind 'clips' or 'faces'"
                )
        if self.audio and self.frame_stride != (1, 1):
            raise ConfigError("data.audio needs data.frame_stride (1, 1): sound cannot skip frames")

    def stream(self) -> dict[str, Any]:
        """What decides the batches, but for where the clips lie: JSON-able, for the loader's state."""
        elsewhere = ("path", "identities", "clip_frames")  # `Source.identification` says it.
        fields = {name: value for name, value in dataclasses.asdict(self).items() if name not in elsewhere}
        fields |= {name: bool(fields[name]) for name in ("stylised", "skeletons")}
        return {f"data.{name}": list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


def make_loader(
    data_config: Mapping[str, Any] | ConfigDict | DataConfig,
    *,
    global_batch: int,
    frames: int = 1,
    seed: int = 0,
    split: str = "train",
    needs: Collection[str] = (),
    process_index: int | None = None,
    process_count: int | None = None,
    threads: int = 2,
) -> Loader:
    """An endless iterator of this process's part of each global batch.

    Args:
        data_config: `DataConfig` or its fields.
        global_batch: rows over all processes.
        frames: f of an example.
        seed: decides order, frames and augmentation.
        split: "train" or "test".
        needs: arrays that the batches must have.
        process_index, process_count: default to JAX's.
        threads: how many batches are made at a time; it changes the speed only. 0 makes them in the calling thread.

    Raises:
        ConfigError: a setting does not exist or does not fit. InputFileError: no finished data set at `path`.
    """
    config = data_config if isinstance(data_config, DataConfig) else from_mapping(DataConfig, dict(data_config))
    check_kind(config, needs)
    index = jax.process_index() if process_index is None else process_index
    count = jax.process_count() if process_count is None else process_count
    if global_batch % count:
        raise ConfigError(f"a global batch of {global_batch} does not divide among {count} processes")
    if config.stylised:
        check_copies(config.stylised)
    if config.skeletons:
        check_skeletons(config.skeletons)
    source = open_source(config, split)
    if frames > source.min_frames:
        raise ConfigError(f"examples of {frames} frames, but the clips have {source.min_frames}; prepare longer ones")
    make = Example(source, config, frames)
    # The random map stands before the split into processes: after it, each host would draw its own augmentation.
    rows = grain.MapDataset.source(source).seed(seed).shuffle().repeat(EPOCHS).random_map(make)
    batches = rows.batch(global_batch // count)[index::count]
    stream = {"seed": seed, "global_batch": global_batch, "frames": frames, "split": split}
    return Loader(batches, threads, {**source.identification, **stream, **config.stream()})


def check_kind(config: DataConfig, needs: Collection[str]) -> None:
    """Raises ConfigError, naming the kinds that fit, if the batches of `config` would lack something in `needs`."""
    given = {*KINDS[config.kind].gives, *(("audio",) if config.audio else ())}
    if missing := set(needs) - given:
        fitting = [f"'{name}'" for name, kind in KINDS.items() if set(needs) <= {*kind.gives, "audio"}]
        sound = " with data.audio" if "audio" in missing else ""
        advice = f"use data.kind {' or '.join(fitting)}{sound}" if fitting else "no data.kind gives it all"
        raise ConfigError(f"data.kind '{config.kind}' gives {listed(given)}, but {listed(missing)} is needed; {advice}")


def open_source(config: DataConfig, split: str) -> Source:
    """Where clips come from: a prepared folder, or the generator."""
    if config.kind == "motion":
        return motion.open_motion(config.path, split, config.clip_frames, config.emotions)
    if config.path:
        return RecordSource(config.path, split, config.size)
    return SyntheticSource(config.identities, config.clip_frames, split, config.size, config.audio)


class Loader:
    """Iterates over batches (dicts of arrays); the state is a small JSON-able dict. Close it, or use `with`."""

    def __init__(self, batches: grain.MapDataset, threads: int, identification: Mapping[str, Any]):
        self._batches, self._threads, self._identification = batches, threads, dict(identification)
        self._next = 0
        self._iterator: grain.DatasetIterator | None = None

    def __iter__(self) -> Loader:
        return self

    def __next__(self) -> Batch:
        if self._iterator is None:
            self._iterator = iter(self._batches.to_iter_dataset(read_options(self._threads)))
            self._iterator.set_state({"next_index": self._next})
        batch = next(self._iterator)
        self._next += 1
        return batch

    def get_state(self) -> dict[str, Any]:
        """What comes next, and of which stream of batches."""
        return {"next_batch": self._next, "stream": self._identification}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on where `get_state` was called, whatever the number of threads and processes is now.

        Raises:
            CheckpointError: the state belongs to other data, or to another seed, batch size, number of frames or
                setting of `DataConfig`.
        """
        stored = dict(state["stream"])
        for name, value in self._identification.items():
            if stored.get(name, value) != value:  # Older checkpoints name fewer settings.
                raise CheckpointError(
                    f"the checkpoint was made with {name} {stored.get(name)}, this run has {value}; give the same, or "
                    "start in a new --workdir"
                )
        self.close()
        self._next = int(state["next_batch"])

    def close(self) -> None:
        """Stops the threads that read ahead."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_options(threads: int) -> grain.ReadOptions:
    """At most two batches per thread wait in memory; Grain's default of 500 would be gigabytes of video."""
    return grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)


class Example:
    """One row of a batch from one item of the source."""

    def __init__(self, source: Source, config: DataConfig, frames: int):
        self.source, self.config, self.frames = source, config, frames

    def __call__(self, item: Any, rng: np.random.Generator) -> Batch:
        cv2.setNumThreads(1)  # Batches run side by side already.
        return KINDS[self.config.kind].make(self.source.view(item, rng), rng, self.config, self.frames)


def clip_example(view: View, rng: np.random.Generator, config: DataConfig, frames: int) -> Batch:
    """A window of frames with its landmarks, drawing and masks, and a reference from elsewhere in the clip."""
    batch = face_example(view, rng, config, frames)
    landmarks, size, cell = batch["landmarks"], config.size, config.latent_factor
    return batch | {
        "control": np.stack([draw_landmarks(points, size, size, config.drawing) for points in landmarks]),
        "expression_mask": np.stack([expression_mask(points, size, size, cell) for points in landmarks]),
        "oval_mask": np.stack([oval_cells(points, size, size, cell) for points in landmarks]),
    }


def face_example(view: View, rng: np.random.Generator, config: DataConfig, frames: int) -> Batch:
    """A window of frames with its landmarks, and a reference from elsewhere in the clip with its own."""
    chosen = choose_window(rng, view.num_frames, frames, config.frame_stride)
    reference = choose_reference(rng, view.num_frames, chosen)
    indices = [*chosen.tolist(), reference]
    pictures = view.frames(indices)
    if config.stylised:
        # Changed together, so that the clip's landmarks hold for both.
        pictures = np.concatenate([_restyled(view, indices, rng, config, pictures), pictures[:frames]])
    points = view.landmarks(indices)
    if config.skeletons:
        # Changed together with the landmarks, so that they stay on the pictures.
        points = np.concatenate([points, with_depth(joints_of(config.skeletons, view, indices))], axis=1)
    images, points = _changed(pictures, points, rng, config)
    landmarks, joints = points[:, :NUM_LANDMARKS], points[:frames, NUM_LANDMARKS:, :2]
    batch = {
        "frames": images[:frames],
        "reference": images[frames],
        "landmarks": landmarks[:-1],
        "reference_landmarks": landmarks[-1],
    }
    if config.stylised:
        batch["driving"] = images[frames + 1 :]
    if config.skeletons:
        batch["skeletons"] = drawn(joints, config.size, config.skeleton_drop, rng)
    if config.audio:
        margin = config.audio_margin
        batch["audio"] = view.audio(int(chosen[0]) - margin, frames + 2 * margin)
    if config.tokenizer:
        batch["text"] = tokenizer_of(config.tokenizer, config.text_length)([view.caption or config.caption])[0]
    return batch


def with_depth(joints: np.ndarray) -> np.ndarray:
    """Joints "f 12 2" as points "f 12 3" whose depth nobody knows."""
    return np.concatenate([joints, np.zeros_like(joints[..., :1])], axis=-1)


@functools.cache
def tokenizer_of(name: str, length: int) -> Tokenizer:
    """Read once per process."""
    return load_tokenizer(name, length)


def speaker_example(view: View, rng: np.random.Generator, config: DataConfig, frames: int) -> Batch:
    """A window of frames with its landmarks, a reference with its face cut out, and the rectangle around the faces of all."""
    batch, size = face_example(view, rng, config, frames), config.size
    seen = np.concatenate([batch["landmarks"], batch["reference_landmarks"][None]])
    face = aligned_face(batch["reference"], batch.pop("reference_landmarks"), config.face_size)
    return {**batch, "face": face, "face_mask": face_rectangle(seen, size, size)}


def image_example(view: View, rng: np.random.Generator, config: DataConfig, frames: int) -> Batch:
    """One frame, for autoencoders."""
    return {"image": _seen(view, [int(rng.integers(view.num_frames))], rng, config)[0][0]}


def probe_example(view: View, rng: np.random.Generator, config: DataConfig, frames: int) -> Batch:
    """One frame with its landmarks and who it is (the attributes are empty for real people)."""
    images, landmarks = _seen(view, [int(rng.integers(view.num_frames))], rng, config)
    return {"image": images[0], "landmarks": landmarks[0], "attributes": np.asarray(view.attributes, np.float32)}


def motion_example(view: motion.MotionView, rng: np.random.Generator, config: DataConfig, frames: int) -> Batch:
    """A window of a sequence of motion latents, and its label."""
    return motion.window(view, rng, frames)


class Kind(NamedTuple):
    """One kind of example: how it is made, and the arrays that it always has."""

    make: Callable[[Any, np.random.Generator, DataConfig, int], Batch]
    gives: tuple[str, ...]


_FACES = ("frames", "reference", "landmarks", "reference_landmarks")
_CLIPS = Kind(clip_example, (*_FACES, "control", "expression_mask", "oval_mask"))
KINDS: Mapping[str, Kind] = {
    "clips": _CLIPS,
    "synthetic": _CLIPS,
    "faces": Kind(face_example, _FACES),
    "speakers": Kind(speaker_example, ("frames", "reference", "landmarks", "face", "face_mask")),
    "images": Kind(image_example, ("image",)),
    "probe": Kind(probe_example, ("image", "landmarks", "attributes")),
    "motion": Kind(motion_example, ("motion", "emotion")),
}


def choose_window(rng: np.random.Generator, length: int, frames: int, stride: tuple[int, int]) -> np.ndarray:
    """Indices of `frames` frames with an even random step within `stride`, as far as the clip of `length` allows it."""
    longest = (length - 1) // max(frames - 1, 1)
    step = int(rng.integers(min(stride[0], longest), min(stride[1], longest) + 1)) if frames > 1 else 1
    start = int(rng.integers(length - step * (frames - 1)))
    return start + step * np.arange(frames)


def choose_reference(rng: np.random.Generator, length: int, chosen: np.ndarray) -> int:
    """Any other frame of the clip; any frame at all if the window has taken every one."""
    others = np.setdiff1d(np.arange(length), chosen)
    return int(rng.choice(others if len(others) else np.arange(length)))


def _restyled(
    view: Any, indices: list[int], rng: np.random.Generator, config: DataConfig, pictures: np.ndarray
) -> np.ndarray:
    """The frames of a stylised copy, if one is drawn; `pictures`, the clip's own, otherwise."""
    path = draw_copy(config.stylised, config.stylised_share, view.clip_id, rng)
    return pictures if path is None else copied_frames(path, view, indices)


def _seen(
    view: View, indices: list[int], rng: np.random.Generator, config: DataConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Frames and landmarks after augmentation."""
    return _changed(view.frames(indices), view.landmarks(indices), rng, config)


def _changed(
    images: np.ndarray, landmarks: np.ndarray, rng: np.random.Generator, config: DataConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Augmented pictures and their landmarks."""
    landmarks = landmarks.astype(np.float32)
    if config.crop_jitter:
        matrix = augment.crop_matrix(rng, config.crop_jitter, config.size)
        images, landmarks = augment.apply_crop(images, matrix), augment.move_landmarks(landmarks, matrix)
    if config.color_jitter:
        images = augment.apply_color(images, augment.color_table(rng, config.color_jitter))
    return images, landmarks
