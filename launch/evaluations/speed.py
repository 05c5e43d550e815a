"""`launch.evaluate --analysis speed`: the config's sampling beside variants of it: how long each takes, what it loses."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import median
from time import perf_counter, process_time
from typing import Any, get_type_hints

import numpy as np
from rich.console import Console

from data.cases import average_person, evaluation_cases, spoken_case
from launch.evaluations.common import BY_SOUND, OVERRIDES, Options, animate, varied
from portrait_jax.animation import Animator
from portrait_jax.errors import ConfigError, nearest
from portrait_jax.metrics import image, report
from portrait_jax.metrics.detector import Detector
from portrait_jax.metrics.suite import METRICS, Case, Method, evaluate
from portrait_jax.progress import Bars
from portrait_jax.systems.system import SamplingConfig
from portrait_jax.typing import Video

FPS = 25.0
"""Frames per second of the procedural people's videos."""
PLAIN = "plain"
"""The column of the config's own sampling."""
SPEED = {
    "seconds": report.Metric("seconds per second of video", "low", 2),
    "processor": report.Metric("processor seconds, all cores, per second of video", "low", 2),
    "distance": report.Metric("PSNR against the plain sampler, dB", "high", 1),
}
CLOCKS: Mapping[str, Callable[[], float]] = {"seconds": perf_counter, "processor": process_time}
"""Where other work runs on the same cores, the second says more."""
CHOSEN = ("landmark_error", "mouth", "yaw", "l1", "psnr", "ssim", "identity", "smoothness", "flicker")


def shares(text: str) -> tuple[float, float]:
    """`(0.2,0.8)` → two numbers."""
    first, last = (float(part) for part in text.strip("()").split(","))
    return first, last


READERS: Mapping[Any, tuple[str, Callable[[str], Any]]] = {
    int: ("a whole number", int),
    float: ("a number", float),
    str: ("a name", str),
    float | None: ("a number or None", lambda text: None if text == "None" else float(text)),
    tuple[float, float]: ("two numbers in brackets", shares),
}
"""Type of a sampling setting → what it is called, and how it is read."""


def parse(variant: str) -> dict[str, Any]:
    """`solver=dpmpp_2m,steps=4` → those sampling settings, each of its own type.

    Raises:
        ConfigError: for a setting that does not exist (naming the nearest one) or a value of another type.
    """
    types, found = get_type_hints(SamplingConfig), {}
    for part in re.split(r",(?![^(]*\))", variant):
        name, equals, text = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise ConfigError(
                f"--variant {variant!r}: '{part}' sets nothing; write name=value, with commas between several"
            )
        if name not in types:
            raise ConfigError(
                f"--variant {variant!r}: there is no sampling setting '{name}'{nearest(name, list(types))}"
            )
        what, read = READERS[types[name]]
        try:
            found[name] = read(text)
        except ValueError as error:
            raise ConfigError(f"--variant {variant!r}: {name} is {what}, not '{text}'") from error
    return found


def variants_of(animator: Animator, texts: Sequence[str], frames: int) -> dict[str, Animator]:
    """The animator as it is and as each text says, by column; what cannot sample is found out before anything is sampled.

    Raises:
        ConfigError: without variants, for one that changes nothing, and see `parse`.
    """
    if not texts:
        raise ConfigError("nothing to compare: give --variant name=value of a sampling setting, once for each column")
    # All compile programs of their own and share one copy of the parameters.
    found = {PLAIN: replace(animator, params=animator.placing.params(animator.params), _compiled={})}
    for text in texts:
        found[text] = varied(found[PLAIN], parse(text))
        if in_force(found[text]) == in_force(animator):
            raise ConfigError(f"--variant {text!r} is what the config says already; give another value")
    for each in found.values():
        each.plan(frames)
        for part in ("solver", "rule", "cache"):
            getattr(each, part)
    return found


def in_force(animator: Animator) -> SamplingConfig:
    """The sampling settings with those of the animator that win over them."""
    return replace(animator.system.sampling, **{name: animator.settings[name] for name in OVERRIDES})


def cases(animator: Animator, options: Options) -> tuple[str, list[Case]]:
    """The name of the table's group, and its people: driven by another one's motion, or by their own sound."""
    given = options.frames, animator.system.image_size, options.seed
    if animator.system.driven_by in BY_SOUND:
        return "own sound", [spoken_case(index, *given) for index in range(options.identities)]
    return "cross identity", evaluation_cases(options.identities, *given, cross=True)


def run(animator: Animator, options: Options, settings: Mapping[str, Any]) -> None:
    """Animates every person plainly and by each variant, in turns; writes metrics.json and table.md. Raises: see `variants_of`."""
    animators = variants_of(animator, options.variants, options.frames)
    timed = {name: Timed(each, options) for name, each in animators.items()}
    group, people = cases(animator, options)
    with Bars("compiling") as bars:
        for each in bars.track(timed.values(), "compiling", len(timed)):
            each.warm(people[0])
    methods: dict[str, Method] = dict(timed)
    with Bars("people") as bars:
        shown = {group: bars.track(people, "speed", len(people))}
        table = evaluate(methods, shown, Detector.load(options.probe), average_person=average_person())
    for name, each in timed.items():
        scores = table[group][name]
        for kind, taken in each.taken.items():
            scores[kind] = median(taken) / (options.frames / FPS)
        pairs = zip(each.videos, timed[PLAIN].videos, strict=True)
        scores["distance"] = float("nan") if name == PLAIN else float(np.mean([image.psnr(*pair) for pair in pairs]))
    metrics = {**SPEED, **{name: METRICS[name] for name in CHOSEN}}
    taken = {name: each.taken for name, each in timed.items()}
    report.write(table, options.output, settings, metrics=metrics, more={"taken": taken})
    title = f"{animator.system.name}: {options.identities} people, {options.frames} frames each"
    Console().print(report.terminal(table, title, metrics))
    print(f"written to {options.output}: metrics.json, table.md")


class Timed:
    """An animator as a method of the suite that notes each video, and how long it took by each of `CLOCKS`."""

    def __init__(self, animator: Animator, options: Options) -> None:
        self.animator, self.options = animator, options
        self.taken: dict[str, list[float]] = {kind: [] for kind in CLOCKS}
        self.videos: list[Video] = []

    def warm(self, case: Case) -> None:
        """Compiles."""
        animate(self.animator, case, self.options.seed, self.options.landmarker)

    def __call__(self, case: Case) -> Video:
        before = {kind: clock() for kind, clock in CLOCKS.items()}
        video = animate(self.animator, case, self.options.seed, self.options.landmarker)
        for kind, clock in CLOCKS.items():
            self.taken[kind].append(clock() - before[kind])
        self.videos.append(video)
        return video
