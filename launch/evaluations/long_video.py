"""`launch.evaluate --analysis long_video`: the same people by every strategy for long videos, with one checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from data.cases import evaluation_cases
from portrait_jax.animation import Animator, animate_clip
from portrait_jax.face.detector import model_path
from portrait_jax.media.image import write_image
from portrait_jax.media.sheets import contact_sheet
from portrait_jax.metrics import long_video, report
from portrait_jax.metrics.detector import Detector
from portrait_jax.metrics.suite import Case, Scores, eye_distance, point_distance
from portrait_jax.progress import Bars
from portrait_jax.typing import Video

STRATEGIES = ("overlap", "progressive")
METRICS = {
    **long_video.METRICS,
    "landmark_error": report.Metric("landmark error, % of eye distance", "low", 2),
    "landmark_drift": report.Metric("growth of the landmark error", "low", 2),
}
SHEET_FRAMES = 8


class Options(NamedTuple):
    """The flags that matter here."""

    output: Path
    identities: int
    frames: int
    seed: int
    probe: str
    landmarker: str | None = None


def run(animator: Animator, options: Options, settings: Mapping[str, Any]) -> None:
    """Animates every person by every strategy; writes metrics.json, table.md and comparison.png."""
    probe, animators = Detector.load(options.probe), {name: by_strategy(animator, name) for name in STRATEGIES}
    rows: list[list[np.ndarray]] = []
    labels: list[str] = []
    scores: dict[str, list[Scores]] = {name: [] for name in STRATEGIES}
    people = evaluation_cases(options.identities, options.frames, animator.system.image_size, options.seed, cross=True)
    with Bars("people") as bars:
        for case in bars.track(people, "long videos", len(people)):
            for name, each in animators.items():
                video = animate(each, case, options.seed, options.landmarker)
                scores[name].append(judged(each, case, video, probe))
                if case is people[0]:
                    rows.append(spread(video))
                    labels.append(name)
            if case is people[0]:
                rows.append(spread(case.truth))
                labels.append("truth")
    table = {f"{options.frames} frames": {name: mean(found) for name, found in scores.items()}}
    report.write(table, options.output, settings, metrics=METRICS)
    write_image(options.output / "comparison.png", contact_sheet(rows, labels))
    title = f"{animator.system.name}: {options.identities} people, {options.frames} frames each"
    Console().print(report.terminal(table, title, METRICS))
    print(f"written to {options.output}: metrics.json, table.md, comparison.png")


def by_strategy(animator: Animator, name: str) -> Animator:
    """The same system, parameters and settings with another strategy."""
    system = replace(animator.system, sampling=replace(animator.system.sampling, strategy=name))  # type: ignore[type-var]
    return replace(animator, system=system, _compiled={})


def animate(animator: Animator, case: Case, seed: int, landmarker: str | None = None) -> Video:
    """The whole video of one case."""
    given = case.portrait, case.reference_landmarks, case.driving_landmarks, case.driving_frames
    bundle = partial(model_path, landmarker)
    return animate_clip(animator.system, animator.params, *given, seed=seed, animator=animator, bundle=bundle)


def judged(animator: Animator, case: Case, video: Video, probe: Detector) -> Scores:
    """The measures of `metrics.long_video` at the strategy's own borders, and what the probe sees."""
    plan = animator.plan(len(video))
    seen = probe.detect(video).landmarks_px
    error = 100 * point_distance(seen, case.truth_landmarks).mean(axis=1) / eye_distance(case.truth_landmarks)
    return {
        **long_video.measure(video, case.truth, plan.borders, plan.blended),
        "landmark_error": float(error.mean()),
        "landmark_drift": long_video.growth(error),
    }


def spread(video: Video) -> list[np.ndarray]:
    """A few frames from the first to the last."""
    return [video[i] for i in np.linspace(0, len(video) - 1, SHEET_FRAMES).astype(int)]


def mean(rows: Sequence[Scores]) -> Scores:
    """Mean of each metric over people that have it."""
    defined = {name: [row[name] for row in rows if np.isfinite(row[name])] for name in METRICS}
    return {name: float(np.mean(values)) if values else float("nan") for name, values in defined.items()}
