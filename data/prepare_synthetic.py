"""Procedural portraits as a data set: one clip per person by default, train and test people disjoint by seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2

from data import parts, synthetic
from data.builder import finished, write_shards
from data.records import CRF, Record, encode_clip
from data.schema import FPS, SCHEMA_VERSION
from portrait_jax.errors import ConfigError

PERFORMANCE_SEEDS = 1_000_003
"""Spreads performance seeds, so that nearby settings share no performance."""


@dataclasses.dataclass(frozen=True)
class SyntheticConfig:
    """How much is drawn: `train` and `test` people, `clips` each, of `frames` frames at `fps` and `size` pixels; `energy` 0 … 1 is
    how much heads move, below 0 it is drawn anew for each clip.

    Few frames a second make few frames last long, so that those of one clip differ in pose: what single frames are
    trained on. Motion is trained on 25.
    """

    train: int = 400
    test: int = 32
    clips: int = 1
    frames: int = 24
    fps: float = FPS
    size: int = 128
    seed: int = 0
    crf: int = CRF
    speech: bool = True
    energy: float = -1.0

    def __post_init__(self) -> None:
        if min(self.train, self.clips, self.frames) < 1 or self.test < 0:
            raise ConfigError("prepare: train, clips and frames must be at least 1, test at least 0")
        if not 1 <= self.fps <= 60:
            raise ConfigError(f"prepare: fps {self.fps} must be 1 to 60")
        if self.energy > 1:
            raise ConfigError(f"prepare: energy {self.energy} must be at most 1")
        if self.size % 2 or not 32 <= self.size <= 1024:
            raise ConfigError(f"prepare: size {self.size} must be even, 32 to 1024")


def prepare_synthetic(config: SyntheticConfig, output: str | Path, *, processes: int = 1) -> dict[str, Any]:
    """Draws the data set into `output`, or goes on where an interrupted run was; returns the statistics.

    Raises:
        ConfigError: `output` holds something else.
    """
    output = Path(output).absolute()
    parts.claim(output, {"kind": "synthetic", "schema_version": SCHEMA_VERSION, **dataclasses.asdict(config)})
    if (statistics := finished(output)) is not None:
        return statistics
    sources = [
        parts.Source(f"{split}_{index:06d}", f"synthetic {split} {index}", split, (config, index))
        for split, count in (("train", config.train), ("test", config.test))
        for index in range(count)
    ]
    parts.prepare_sources(output, sources, draw, processes=processes)
    names = {"expression": synthetic.EXPRESSION_NAMES, "attributes": synthetic.ATTRIBUTE_NAMES}
    return write_shards(output, parts.collect(output, sources), names)


def draw(source: parts.Source) -> Iterator[Record]:
    """One person's clips."""
    cv2.setNumThreads(1)
    config, index = source.item
    identity_seed = synthetic.split_seed(source.split, index)
    identity = synthetic.sample_identity(identity_seed)
    for clip in range(config.clips):
        performance_seed = (config.seed * PERFORMANCE_SEEDS + identity_seed) * config.clips + clip
        energy = config.energy if config.energy >= 0 else None
        performance = synthetic.sample_performance(
            performance_seed, config.frames, config.fps, speech=config.speech, energy=energy
        )
        raw = synthetic.render_clip(identity, performance, config.size)
        named = {
            "clip_id": f"{source.source_id}_{clip:03d}",
            "source": f"synthetic identity {identity_seed} performance {performance_seed}",
            "identity": f"synthetic_{identity_seed}",
        }
        yield encode_clip({**raw, **named}, crf=config.crf)
