"""What the analyses of `launch.evaluate` do alike: their flags, one animator with other sampling settings, means over people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from portrait_jax.animation import Animator, animate_clip
from portrait_jax.face.detector import model_path
from portrait_jax.metrics.suite import Case, Metric, Scores
from portrait_jax.typing import Video

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


def animate(animator: Animator, case: Case, seed: int, landmarker: str | None = None) -> Video:
    """The whole video of one case."""
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
