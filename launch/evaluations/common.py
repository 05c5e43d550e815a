"""What the analyses of `launch.evaluate` do alike: their flags, one animator with other sampling settings, means over people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from portrait_jax.animation import Animator, animate_clip
from portrait_jax.animation.drivers import driver_of
from portrait_jax.animation.portrait import Portrait
from portrait_jax.animation.signals import Clip, Signals
from portrait_jax.animation.sound import encoder
from portrait_jax.encoders.speech import speech_states
from portrait_jax.face.detector import model_path
from portrait_jax.metrics.suite import Case, Metric, Scores
from portrait_jax.typing import Float, Video

BY_SOUND = ("sound", "sound and text")
"""What drives systems that are told nothing of a driver's face."""
SHEET_FRAMES = 8
OVERRIDES: Mapping[str, str] = {
    "steps": "steps",
    "guidance": "guidance",
    "window": "length",
    "overlap": "overlap",
    "windows_per_chunk": "windows_per_chunk",
}
"""A sampling setting → the animator's own, which wins over it."""


class Options(NamedTuple):
    """The flags that matter to analyses."""

    output: Path
    identities: int
    frames: int
    seed: int
    probe: str
    landmarker: str | None = None
    anchors: Sequence[str] = ()
    """What `anchors` compares: names of `sound.ANCHORS`."""
    variants: Sequence[str] = ()
    """What `speed` compares: see `speed.parse`."""


def varied(animator: Animator, changes: Mapping[str, Any]) -> Animator:
    """The same system and parameters with other sampling settings, which also win over the animator's own of that name."""
    system = replace(animator.system, sampling=replace(animator.system.sampling, **changes))  # type: ignore[type-var]
    own = {OVERRIDES[name]: None for name in changes if name in OVERRIDES}
    return replace(animator, system=system, _compiled={}, **own)


def signals_of(animator: Animator, case: Case, sound: Float[np.ndarray, " samples"]) -> Signals:
    """What a person and samples at the speech encoder's rate tell the system."""
    system: Any = animator.system
    heard = speech_states(encoder(system, animator.params), lambda: iter([sound]), system.clock())
    clip = Clip(case.reference_landmarks[None], speech=np.concatenate(list(heard)))
    return driver_of(system).clip(system, Portrait(case.portrait, case.reference_landmarks), clip, "none")


def speak(animator: Animator, case: Case, sound: Float[np.ndarray, " samples"], seed: int) -> Video:
    """The person's portrait, driven by such samples for as long as the truth is."""
    signals = signals_of(animator, case, sound)
    return np.concatenate([part for part, _ in animator.frames(case.portrait, signals, len(case.truth), seed=seed)])


def animate(animator: Animator, case: Case, seed: int, landmarker: str | None = None) -> Video:
    """The whole video of one case, by what drives the system."""
    if animator.system.driven_by in BY_SOUND and case.sound is not None:
        return speak(animator, case, case.sound, seed)
    given = case.portrait, case.reference_landmarks, case.driving_landmarks, case.driving_frames
    bundle = partial(model_path, landmarker)
    return animate_clip(animator.system, animator.params, *given, seed=seed, animator=animator, bundle=bundle)


def spread(video: Video) -> list[np.ndarray]:
    """A few frames from the first to the last."""
    return [video[i] for i in np.linspace(0, len(video) - 1, SHEET_FRAMES).astype(int)]


def means(scores: Mapping[str, Sequence[Scores]], metrics: Mapping[str, Metric]) -> dict[str, Scores]:
    """Mean of each metric over people that have it, by method; NaN if nobody has it."""

    def mean(rows: Sequence[Scores], name: str) -> float:
        values = [row[name] for row in rows if np.isfinite(row[name])]
        return float(np.mean(values)) if values else float("nan")

    return {method: {name: mean(rows, name) for name in metrics} for method, rows in scores.items()}
