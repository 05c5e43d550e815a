"""`launch.evaluate --analysis long_video`: the same people by every strategy for long videos, with one checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.console import Console

from data.cases import evaluation_cases
from launch.evaluations.common import Options, animate, means, spread, varied
from portrait_jax.animation import Animator
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


def run(animator: Animator, options: Options, settings: Mapping[str, Any]) -> None:
    """Animates every person by every strategy; writes metrics.json, table.md and comparison.png."""
    probe, animators = Detector.load(options.probe), {name: varied(animator, {"strategy": name}) for name in STRATEGIES}
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
    table = {f"{options.frames} frames": means(scores, METRICS)}
    report.write(table, options.output, settings, metrics=METRICS)
    write_image(options.output / "comparison.png", contact_sheet(rows, labels))
    title = f"{animator.system.name}: {options.identities} people, {options.frames} frames each"
    Console().print(report.terminal(table, title, METRICS))
    print(f"written to {options.output}: metrics.json, table.md, comparison.png")


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
