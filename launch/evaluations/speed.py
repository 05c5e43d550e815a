"""`launch.evaluate --analysis speed`: the config's sampling beside the plain sampler: how long it takes, what it loses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from rich.console import Console

from data.cases import average_person, evaluation_cases
from launch.evaluations.long_video import Options, animate
from portrait_jax.animation import Animator
from portrait_jax.errors import ConfigError
from portrait_jax.metrics import image, report
from portrait_jax.metrics.detector import Detector
from portrait_jax.metrics.suite import METRICS, Case, Method, evaluate
from portrait_jax.progress import Bars
from portrait_jax.systems.system import SamplingConfig
from portrait_jax.typing import Video

FPS = 25.0
"""Frames per second of the procedural people's videos."""
PLAIN: Mapping[str, Any] = {
    name: getattr(SamplingConfig(), name) for name in ("guidance_interval", "cache_every", "cache_depth")
}
"""What makes sampling faster, and its value where it does not."""
SPEED = {
    "seconds": report.Metric("seconds per second of video", "low", 2),
    "distance": report.Metric("PSNR against the plain sampler, dB", "high", 1),
}
CHOSEN = ("landmark_error", "mouth", "yaw", "l1", "psnr", "ssim", "identity", "smoothness", "flicker")


def run(animator: Animator, options: Options, settings: Mapping[str, Any]) -> None:
    """Animates every person plainly and as the config says; writes metrics.json and table.md.

    Raises ConfigError if the config's sampling is the plain one.
    """
    set_, plain = animator.system.sampling, replace(animator.system.sampling, **PLAIN)
    if set_ == plain:
        raise ConfigError(f"nothing to compare: set one of {', '.join(f'--config.sampling.{name}' for name in PLAIN)}")
    system = replace(animator.system, sampling=plain)  # type: ignore[type-var]
    timed = {
        "plain": Timed(replace(animator, system=system, _compiled={}), options),
        "as set": Timed(animator, options),
    }
    people = evaluation_cases(options.identities, options.frames, animator.system.image_size, options.seed, cross=True)
    for each in timed.values():
        each.warm(people[0])
    methods: dict[str, Method] = dict(timed)
    with Bars("people") as bars:
        shown = {"cross identity": bars.track(people, "speed", len(people))}
        table = evaluate(methods, shown, Detector.load(options.probe), average_person=average_person())
    for name, each in timed.items():
        scores = table["cross identity"][name]
        scores["seconds"] = median(each.seconds) / (options.frames / FPS)
        pairs = zip(each.videos, timed["plain"].videos, strict=True)
        scores["distance"] = float("nan") if name == "plain" else float(np.mean([image.psnr(*pair) for pair in pairs]))
    metrics = {**SPEED, **{name: METRICS[name] for name in CHOSEN}}
    report.write(table, options.output, settings, metrics=metrics)
    title = f"{animator.system.name}: {options.identities} people, {options.frames} frames each"
    Console().print(report.terminal(table, title, metrics))
    print(f"written to {options.output}: metrics.json, table.md")


class Timed:
    """An animator as a method of the suite that notes each video, and how long it took."""

    def __init__(self, animator: Animator, options: Options, clock: Callable[[], float] = perf_counter) -> None:
        self.animator, self.options, self.clock = animator, options, clock
        self.seconds: list[float] = []
        self.videos: list[Video] = []

    def warm(self, case: Case) -> None:
        """Compiles."""
        animate(self.animator, case, self.options.seed, self.options.landmarker)

    def __call__(self, case: Case) -> Video:
        before = self.clock()
        video = animate(self.animator, case, self.options.seed, self.options.landmarker)
        self.seconds.append(self.clock() - before)
        self.videos.append(video)
        return video
