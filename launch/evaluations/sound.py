"""`launch.evaluate --analysis sound` and `anchors`: does the mouth follow the sound, and do long videos keep their colours?

People and sounds are unseen ones of the procedural portraits. Each person speaks with the sound of the true performance, with
another one (the control: whatever it reaches is chance), and is silent; the truth's own mouth says how far the probe can be
trusted. For colours, each person speaks as long as `--frames` says: with the anchor, of latents or of the network's features,
without it, and by overlapping windows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.console import Console

from data.cases import spoken_case
from launch.evaluations.common import Options, means, speak, spread, varied
from portrait_jax.animation import Animator
from portrait_jax.face.measures import mouth_opening
from portrait_jax.media.charts import line_chart
from portrait_jax.media.image import write_image
from portrait_jax.media.sheets import contact_sheet
from portrait_jax.metrics import long_video, report
from portrait_jax.metrics.detector import Detector
from portrait_jax.metrics.following import follow
from portrait_jax.metrics.suite import Metric, Scores
from portrait_jax.progress import Bars
from portrait_jax.typing import Float

MOUTH = {
    "correlation": Metric("mouth opening, correlation with the true one", "high", 3),
    "chance": Metric("the same with frames in random order, 95th percentile", "low", 3),
    "movement": Metric("movement of the mouth, relative to the true one", "one", 2),
}
ANCHORS = {
    "latent": {"strategy": "prefix", "anchor": "latent"},
    "blocks": {"strategy": "prefix", "anchor": "blocks"},
    "none": {"strategy": "prefix", "anchor": "none"},
    "overlap": {"strategy": "overlap"},
}
"""What `--anchors` chooses among: prefixes with either anchor or none, and overlapping windows."""


def run(animator: Animator, options: Options, settings: Mapping[str, Any]) -> None:
    """Measures mouths; writes metrics.json, table.md and comparison.png."""
    probe, size = Detector.load(options.probe), animator.system.image_size
    people = [spoken_case(i, options.frames, size, options.seed) for i in range(options.identities)]
    own: list[Any] = [person.sound for person in people]
    others = own[-1:] + own[:-1] if len(own) > 1 else [spoken_case(1, options.frames, size, options.seed).sound]
    sounds = {"own sound": own, "another's sound": others, "silence": [0 * sound for sound in own]}
    scores: dict[str, list[Scores]] = {name: [] for name in (*sounds, "truth")}
    rows, labels = [], []
    with Bars("people") as bars:
        for i, person in enumerate(bars.track(people, "speaking", len(people))):
            opening = mouth_opening(person.truth_landmarks)
            videos = {name: speak(animator, person, of[i], options.seed) for name, of in sounds.items()}
            for name, video in {**videos, "truth": person.truth}.items():
                scores[name].append(judged(opening, mouth_opening(probe.detect(video).landmarks_px), options.seed))
                if i == 0:
                    rows.append(spread(video))
                    labels.append(name)
    table = {f"{options.frames} frames": means(scores, MOUTH)}
    finish(table, MOUTH, rows, labels, options, settings, animator, {"people": scores})


def judged(true: np.ndarray, seen: np.ndarray, seed: int) -> Scores:
    """How a mouth follows the true one, and how much it moves at all."""
    found = follow(true, seen, seed=seed)
    return {
        "correlation": found.correlation,
        "chance": found.chance,
        "movement": float(np.std(seen) / max(np.std(true), 1e-9)),
    }


def run_anchors(animator: Animator, options: Options, settings: Mapping[str, Any]) -> None:
    """Measures colours over time; writes metrics.json, table.md, comparison.png, and colours.png: second by second, how far the
    mean colour has moved from where it began.
    """
    size, rows, labels = animator.system.image_size, [], []
    animators = {name: varied(animator, ANCHORS[name]) for name in options.anchors}
    scores: dict[str, list[Scores]] = {name: [] for name in animators}
    second = max(round(animator.system.clock().fps), 1)  # type: ignore[attr-defined]
    courses: dict[str, list[np.ndarray]] = {name: [] for name in animators}
    with Bars("people") as bars:
        for i in bars.track(range(options.identities), "long videos", options.identities):
            person: Any = spoken_case(i, options.frames, size, options.seed)
            truth = person.truth
            for name, each in animators.items():
                video, plan = speak(each, person, person.sound, options.seed), each.plan(options.frames)
                scores[name].append(long_video.measure(video, truth, plan.borders, plan.blended))  # type: ignore[union-attr]
                offset = by_second(long_video.colour_offset(video, truth), second)
                courses[name].append(np.abs(offset - offset[:1]).mean(axis=1))
                if i == 0:
                    rows.append(spread(video))
                    labels.append(name)
            if i == 0:
                rows.append(spread(truth))
                labels.append("truth")
    metrics = long_video.METRICS
    mean = {name: np.mean(of, axis=0).tolist() for name, of in courses.items()}
    seconds = list(range(len(next(iter(mean.values())))))
    if len(seconds) > 1:
        title = "distance of the mean colour's error from the first second's (of 1)"
        write_image(options.output / "colours.png", line_chart(seconds, mean, title, "seconds"))
    more = {"people": scores, "colours": {"seconds": seconds, "moved": mean}}
    table = {f"{options.frames} frames": means(scores, metrics)}
    finish(table, metrics, rows, labels, options, settings, animator, more)


def by_second(values: Float[np.ndarray, "f c"], frames: int) -> Float[np.ndarray, "s c"]:
    """Means of so many frames each; of fewer than that, of all."""
    frames = min(frames, len(values))
    whole = len(values) // frames * frames
    return values[:whole].reshape(-1, frames, values.shape[1]).mean(axis=1)


def finish(
    table: dict[str, dict[str, Scores]],
    metrics: Mapping[str, Metric],
    rows: list[list[np.ndarray]],
    labels: list[str],
    options: Options,
    settings: Mapping[str, Any],
    animator: Animator,
    more: Mapping[str, Any],
) -> None:
    """Writes what was measured, and prints it. `more` holds scores of each person, by method."""
    people = {name: [report.finite(row) for row in rows] for name, rows in more["people"].items()}
    report.write(table, options.output, settings, metrics=metrics, more={**more, "people": people})
    write_image(options.output / "comparison.png", contact_sheet(rows, labels))
    title = f"{animator.system.name}: {options.identities} people, {options.frames} frames each"
    Console().print(report.terminal(table, title, metrics))
    print(f"written to {options.output}: metrics.json, table.md, comparison.png")
