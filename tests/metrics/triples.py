"""A benchmark of two procedural triples: one person driven by itself, one by another."""

from __future__ import annotations

import json
from pathlib import Path

from data.cases import evaluation_cases
from portrait_jax.face.alignment import LandmarkSequence, save_landmarks
from portrait_jax.media.image import write_image
from portrait_jax.media.video import VideoWriter
from portrait_jax.metrics.suite import Case

FRAMES = 9
LINES = (
    {"name": "self", "driving": "self.mp4", "landmarks": "self.npz"},
    {"name": "cross", "portrait": "cross.png", "driving": "cross.npz", "portrait_landmarks": "portrait.npz"},
)


def fill(folder: Path, size: int) -> tuple[Case, Case, Path]:
    """Writes files and `bench.jsonl`; returns the cases that they show, and the manifest."""
    (own,), (other,) = (evaluation_cases(1, FRAMES, size, 0, cross=cross) for cross in (False, True))
    with VideoWriter(folder / "self.mp4", 25.0) as writer:
        for frame in own.truth:
            writer.write(frame)
    save_landmarks(folder / "self.npz", LandmarkSequence(25.0, size, size, own.truth_landmarks))
    write_image(folder / "cross.png", other.portrait)
    save_landmarks(folder / "portrait.npz", LandmarkSequence(1.0, size, size, other.reference_landmarks[None]))
    save_landmarks(folder / "cross.npz", LandmarkSequence(25.0, size, size, other.driving_landmarks))
    return own, other, write(folder, *LINES)


def write(folder: Path, *entries: object) -> Path:
    """A manifest of these entries; text goes in as it is."""
    path = folder / "bench.jsonl"
    path.write_text("".join(f"{entry if isinstance(entry, str) else json.dumps(entry)}\n" for entry in entries))
    return path
