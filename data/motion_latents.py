"""Prepared clips as sequences of motion latents: what a motion prior learns from (`data/motion.py`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from data.builder import read_statistics
from data.motion import Motion, write_motion, write_statistics
from data.parts import write_json
from data.views import RecordSource, View
from portrait_jax import systems
from portrait_jax.animation.faces import FaceSystem
from portrait_jax.errors import ConfigError
from portrait_jax.face.boxes import detector_box, motion_crop, motion_track
from portrait_jax.progress import Bars
from portrait_jax.systems.loading import load_system_params
from portrait_jax.training.params import identify, load_params
from portrait_jax.typing import Video

Encode = Callable[[Video], Motion]
RECORD = "latents.json"


@dataclass(frozen=True)
class LatentsConfig:
    """`configs/prepare.py:latents`."""

    batch: int = 32
    """Face crops that are encoded at a time."""

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ConfigError(f"batch {self.batch} encodes nothing; give at least 1")


def write_latents(config: LatentsConfig, clips: Path, checkpoint: Path, output: Path) -> dict[str, Any]:
    """Encodes every clip of a prepared data set and measures the result; goes on where it was interrupted.

    Args:
        clips: a folder made by `launch.prepare` (:video, :synthetic and the like).
        checkpoint: parameters of a system that is driven by faces, with its config.
        output: gets `SPLIT/NUMBER.npz` in the order of the clips, `statistics.safetensors`, and `latents.json`, which says what
            they were made of.

    Returns:
        what `data.motion.write_statistics` says of the training split.

    Raises:
        InputFileError: there is no finished data set. CheckpointError: there is no checkpoint, or it is another system's.
        ConfigError: the system has no motion encoder, or `output` holds latents of another one or of other clips.
    """
    splits = {split: found for split, found in read_statistics(clips)["splits"].items() if found["clips"]}
    system = systems.build_system(ConfigDict(load_params(checkpoint)[1]["config"]))
    if not hasattr(system, "encode_motion"):
        raise ConfigError(f"{system.name} has no motion encoder; give a checkpoint of a system that has one: xnemo")
    encode = encoder(system, load_system_params(system, checkpoint), config.batch)
    claim(
        output / RECORD,
        {"encoder": identify(checkpoint)["sha256"], "data": {name: splits[name]["hash"] for name in splits}},
    )
    with Bars("clips") as bars:
        for split, found in splits.items():
            largest = max(int(shape.split("x")[0]) for shape in found["sizes"])
            source = RecordSource(clips, split, largest)
            for index in bars.track(range(len(source)), f"encoding {split}", len(source)):
                target = output / split / f"{index:06d}.npz"
                if not target.exists():
                    view = source.view(source[index], np.random.default_rng(0))
                    write_motion(target, encode(face_crops(view, system.face_size)))
    return write_statistics(output, output)


def claim(record: Path, made_of: Mapping[str, Any]) -> None:
    """Writes down what a folder's latents are made of; raises ConfigError if it says something else already."""
    if record.exists():
        if json.loads(record.read_text()) != made_of:
            raise ConfigError(
                f"{record.parent} holds latents of another motion encoder or of other clips, which must not be mixed; give another "
                "--output, or delete that folder"
            )
        return
    write_json(record, made_of)


def face_crops(view: View, side: int) -> Video:
    """The faces of a clip, cut along its smoothed track as those of a driving video are."""
    everything = range(view.num_frames)
    frames, boxes = view.frames(everything), detector_box(view.landmarks(everything))
    track = motion_track(boxes, frames.shape[1:3])
    return np.stack([motion_crop(frame, box, side) for frame, box in zip(frames, track)])


def encoder(system: FaceSystem, params: Mapping[str, Any], batch: int) -> Encode:
    """Crops of any number → their latents, `batch` at a time by one compiled program."""
    run = jax.jit(system.encode_motion)
    # The other networks need not lie on the device.
    own = {"motion_encoder": params["motion_encoder"]}

    def encode(crops: Video) -> Motion:
        padded = np.concatenate([crops, np.repeat(crops[-1:], -len(crops) % batch, axis=0)])
        parts = [np.asarray(run(own, padded[start : start + batch])) for start in range(0, len(padded), batch)]
        return np.concatenate(parts)[: len(crops)].astype(np.float32)

    return encode
