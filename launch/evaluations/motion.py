"""`launch.evaluate --analysis motion`: what do motion latents tell of what a face does, and what of whose it is?

Facts are read linearly off the latents of procedural people's faces, by a map that was fitted on other people.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console

from data.views import SyntheticSource
from launch.evaluations.common import Options
from portrait_jax.animation import Animator
from portrait_jax.errors import ConfigError
from portrait_jax.face.boxes import detector_box, motion_crop
from portrait_jax.face.measures import eye_opening, mouth_opening, yaw
from portrait_jax.metrics import report
from portrait_jax.metrics.reading import linear_reading
from portrait_jax.metrics.suite import Metric
from portrait_jax.progress import Bars
from portrait_jax.typing import Float, Video

MOVES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "yaw": yaw,
    "mouth": mouth_opening,
    "eyes": lambda landmarks: eye_opening(landmarks).mean(-1),
}
METRICS = {
    "yaw": Metric("yaw, R²", "high", 2),
    "mouth": Metric("mouth opening, R²", "high", 2),
    "eyes": Metric("opening of the eyes, R²", "high", 2),
    "person": Metric("mean R² of what distinguishes people", "low", 2),
}
APART = 6
"""Frames of a performance from one that is read to the next, at 25 a second: poses that differ."""


class People(NamedTuple):
    """Latents, what the faces do (by name), and attributes of whose they are; a row per frame."""

    latents: Float[np.ndarray, "n e"]
    moves: dict[str, Float[np.ndarray, " n"]]
    attributes: Float[np.ndarray, "n a"]


def run(animator: Animator, options: Options, settings: Mapping[str, Any]) -> None:
    """Measures `options.identities` unseen people after fitting on twice as many others; writes metrics.json and table.md.

    Raises:
        ConfigError: the system has no motion encoder.
    """
    system: Any = animator.system
    if not hasattr(system, "encode_motion"):
        raise ConfigError(f"{system.name} has no motion encoder; --analysis motion is for systems like xnemo")
    encode = jax.jit(system.encode_motion)

    def read(split: str, count: int) -> People:
        return people(lambda faces: np.asarray(encode(animator.params, faces)), system, split, count, options)

    known, unseen = read("train", 2 * options.identities), read("test", options.identities)
    table = {"unseen people": {"latents": scores(known, unseen)}}
    report.write(table, options.output, settings, metrics=METRICS)
    title = f"{system.name}: {options.identities} people, {options.frames} frames each"
    Console().print(report.terminal(table, title, METRICS))
    print(f"written to {options.output}: metrics.json, table.md")


def people(encode: Callable[[Video], np.ndarray], system: Any, split: str, count: int, options: Options) -> People:
    """Latents and facts of `count` people of a split, `options.frames` of each."""
    # Faces fill about half of these pictures: so a crop has about as many pixels as it shows.
    source = SyntheticSource(count, APART * options.frames, split, 2 * system.face_size, True)
    latents, moves, attributes, rng = [], [], [], np.random.default_rng(options.seed)
    shown = range(0, APART * options.frames, APART)
    with Bars("people") as bars:
        for index in bars.track(range(count), f"reading {split}", count):
            view = source.view(source[index], rng)
            landmarks = view.landmarks(shown)
            boxes = detector_box(landmarks)
            faces = [motion_crop(frame, box, system.face_size) for frame, box in zip(view.frames(shown), boxes)]
            latents.append(encode(np.stack(faces)))
            moves.append({name: measure(landmarks) for name, measure in MOVES.items()})
            attributes.append(np.tile(view.attributes, (len(shown), 1)))
    together = {name: np.concatenate([one[name] for one in moves]) for name in MOVES}
    return People(np.concatenate(latents), together, np.concatenate(attributes))


def scores(known: People, unseen: People) -> dict[str, float]:
    """R² by name; "person" is the mean over attributes that differ between people."""

    def facts(of: People) -> np.ndarray:
        return np.column_stack([*of.moves.values(), of.attributes]).astype(np.float64)

    found = linear_reading(known.latents, facts(known), unseen.latents, facts(unseen))
    differ = unseen.attributes.std(0) > 1e-6
    return {**dict(zip(MOVES, found[: len(MOVES)].tolist())), "person": float(found[len(MOVES) :][differ].mean())}
