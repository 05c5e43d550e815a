"""`launch.evaluate --manifest FILE`: a benchmark of triples, such as EmojiBench."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from portrait_jax.animation import Animator, animate_clip
from portrait_jax.face.detector import FaceDetector, model_path
from portrait_jax.media.files import atomic_output, digest
from portrait_jax.media.image import resize, write_image
from portrait_jax.media.sheets import contact_sheet
from portrait_jax.metrics import bench, report
from portrait_jax.metrics.detector import Detector
from portrait_jax.metrics.lpips import PerceptualDistance
from portrait_jax.metrics.manifest import read_manifest
from portrait_jax.metrics.recogniser import Recogniser
from portrait_jax.progress import Bars
from portrait_jax.typing import Video

SHEET_FRAMES, SHEET_CASES = 6, 12


class Options(NamedTuple):
    """The flags that matter here."""

    manifest: str
    output: Path
    frames: int
    seed: int
    judge: str
    probe: str
    landmarker: str | None
    recogniser: str | None
    lpips: str | None
    keep_videos: bool = False


def run(animator: Animator, options: Options, settings: Mapping[str, Any]) -> None:
    """Animates and scores every triple; writes metrics.json, table.md and comparison.png, and says what is left out."""
    triples = read_manifest(options.manifest)
    networks = bench.Networks(
        Recogniser.load(options.recogniser) if options.recogniser else None,
        PerceptualDistance.load(options.lpips) if options.lpips else None,
    )
    absent = [name for name, network in networks._asdict().items() if network is None]
    left_out = {name: bench.NEEDS_WEIGHTS[name] for name in absent} | bench.LEFT_OUT
    load = partial(
        bench.load_case,
        size=animator.system.image_size,
        detector=lambda: FaceDetector(options.landmarker),
        frames=options.frames,
        pictures=animator.system.driven_by != "landmarks",
        framing=animator.system.sampling.framing,
    )
    rows: list[list[np.ndarray]] = []
    labels: list[str] = []

    def keep(case: bench.Case, video: Video) -> None:
        if options.keep_videos:
            write_videos(options.output / "videos", case, video)
        if len(rows) < SHEET_CASES:
            rows.append([case.portrait, *(video[i] for i in np.linspace(0, len(video) - 1, SHEET_FRAMES).astype(int))])
            labels.append(f"{case.group}: {case.name}")

    def animate(case: bench.Case) -> Video:
        given = case.portrait, case.reference_landmarks, case.driving_landmarks, case.driving_frames
        return animate_clip(
            animator.system, animator.params, *given, seed=options.seed, animator=animator,
            driving_size=case.driving_size, expression=case.expression, bundle=partial(model_path, options.landmarker),
        )  # fmt: skip

    judge, close = make_judge(options)
    try:
        with Bars("cases") as bars:
            shown = bars.track(triples, "benchmark", len(triples))
            outcome = bench.run_benchmark(shown, load, animate, judge, networks, done=keep)
    finally:
        close()
    cases = {name: {way: report.finite(scores) for way, scores in ways.items()} for name, ways in outcome.cases.items()}
    facts = {
        **settings,
        "manifest": {"path": options.manifest, "sha256": digest(options.manifest)},
        "judge": options.judge,
    }
    more = {"cases": cases, "skipped": outcome.skipped, "left_out": left_out}
    report.write(outcome.table, options.output, facts, metrics=bench.METRICS, more=more)
    write_image(options.output / "comparison.png", contact_sheet(rows, labels))
    title = f"{animator.system.name}: {len(outcome.cases)} of {len(triples)} cases"
    Console().print(report.terminal(outcome.table, title, bench.METRICS))
    for name, reason in [*outcome.skipped.items(), *left_out.items()]:
        print(f"left out: {name}: {reason}")
    print(f"written to {options.output}: metrics.json, table.md, comparison.png")


def write_videos(folder: Path, case: bench.Case, video: Video) -> None:
    """`NAME.npz` with `result` and, where it is known, `truth`, u8 "f h w 3" at the size at which they are compared."""
    shown = {"result": np.stack([resize(frame, bench.SIDE, bench.SIDE) for frame in video])}
    if case.truth is not None:
        shown["truth"] = case.truth
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_output(folder / f"{case.name}.npz") as partial_file:
        np.savez_compressed(partial_file, **shown)


def make_judge(options: Options) -> tuple[bench.Judge, Callable[[], None]]:
    """The judge of `--judge`, and what closes it: MediaPipe, or the probe for procedural portraits."""
    if options.judge == "mediapipe":
        detector = FaceDetector(options.landmarker)
        return bench.detector_judge(detector), detector.close
    probe = Detector.load(options.probe)
    return (lambda video: probe.detect(video).landmarks_px), lambda: None
