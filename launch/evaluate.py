"""Measures a trained system on people it has never seen, where the exact answer is known.

    python -m launch.evaluate --config configs/follow_your_emoji.py:demo --checkpoint runs/demo --output runs/evaluation

Test people of the procedural portraits (their seeds are disjoint from the training's) are animated from a neutral
portrait, once by their own motion ("same identity") and once by another test person's ("cross identity"); the truth
is the portrait's person rendered with the driver's performance. Each metric stands beside two baselines, the still
portrait and the untrained system (with the trained autoencoder), and beside the truth itself, which shows the probe's
own error. A system that sees the driver's pictures also stands beside itself driven by these in random order. Writes
metrics.json, table.md and comparison.png into OUTPUT.

A system that sound drives is measured by --analysis sound (does the mouth follow?), anchors (do long videos keep their
colours?) and attention_entropy: docs/anyexpress.md. --analysis motion says what a motion encoder's latents tell of what a face
does, and of whose it is: docs/xnemo.md. With --manifest FILE the cases are those of a benchmark such as
EmojiBench, with --analysis long_video long videos are made by every strategy and compared: docs/evaluation.md.
--analysis speed times the config's sampling beside each --variant of it, and says what these lose: docs/performance.md.
"""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags
from rich.console import Console

from data.cases import average_person, evaluation_cases
from launch import cli, executables, meshes
from launch.evaluations import attention, long_video, manifest, motion, sound, speed
from launch.evaluations.common import Options, animate
from portrait_jax import systems
from portrait_jax.animation import Animator
from portrait_jax.errors import ConfigError
from portrait_jax.media.image import write_image
from portrait_jax.media.sheets import contact_sheet
from portrait_jax.metrics import report
from portrait_jax.metrics.detector import DEFAULT_WEIGHTS, Detector
from portrait_jax.metrics.suite import BASELINES, Case, Method, Table, evaluate, shuffled
from portrait_jax.progress import Bars
from portrait_jax.systems.loading import EMBEDDED, load_system_params
from portrait_jax.training.loop import run_once
from portrait_jax.training.params import identify

HEARD = {"sound": sound.run, "anchors": sound.run_anchors, "attention_entropy": attention.run}
"""Analyses of what sound drives."""
SEEN = {"long_video": long_video.run, "motion": motion.run, "speed": speed.run}
"""Analyses of what pictures or landmarks drive, beside people one by one."""
FITTING = {
    "sound": (*HEARD, "speed"),
    "sound and text": ("sound", "speed"),
    "faces": ("people", "long_video", "motion", "speed"),
}
"""What drives a system → the analyses that fit it, where these are not the others."""

flags.adopt_module_key_flags(executables)  # --help names it too.
CONFIG = config_flags.DEFINE_config_file("config", None, "Config file and stage: configs/NAME.py:STAGE.")
CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "A .safetensors file or a training's workdir; default the package's."
)
OUTPUT = flags.DEFINE_string("output", None, "Folder for metrics.json, table.md and comparison.png.")
IDENTITIES = flags.DEFINE_integer("identities", 6, "People per kind of driving.", lower_bound=1)
FRAMES = flags.DEFINE_integer(
    "frames", None, "Frames per clip; default 48, of a benchmark 64, of long videos 500.", lower_bound=8
)
SEED = flags.DEFINE_integer("seed", 0, "Seed of the sampling noise and of the performances.", lower_bound=0)
STEPS = flags.DEFINE_integer("steps", None, "Solver steps; default the config's.", lower_bound=1, upper_bound=1000)
GUIDANCE = flags.DEFINE_float("guidance", None, "Guidance scale; default the config's.", lower_bound=0)
MESH = flags.DEFINE_list("mesh", [], "Devices that sample together, such as data=2; default one.")
PROBE = flags.DEFINE_string("probe", str(DEFAULT_WEIGHTS), "The judging probe: a file or a training's workdir.")
ANALYSIS = flags.DEFINE_enum("analysis", "people", ["people", *SEEN, *HEARD], "What is measured.")
ANCHORS = flags.DEFINE_multi_enum(
    "anchors", list(sound.ANCHORS), list(sound.ANCHORS), "What --analysis anchors compares; give it once for each."
)
VARIANTS = flags.DEFINE_multi_string(
    "variant",
    [],
    "Sampling settings that --analysis speed compares with the config's, name=value and commas between several; once for each "
    "variant.",
)
MANIFEST = flags.DEFINE_string("manifest", None, "A benchmark: one JSON object per case and line.")
JUDGE = flags.DEFINE_enum("judge", "mediapipe", ["mediapipe", "probe"], "Who finds faces in a benchmark's results.")
LANDMARKER = flags.DEFINE_string(
    "face_landmarker", None, "MediaPipe's face_landmarker.task; default: see docs/animate.md."
)
RECOGNISER = flags.DEFINE_string("face_recogniser", None, "An imported ArcFace, for a benchmark's identity metric.")
KEEP_VIDEOS = flags.DEFINE_bool(
    "keep_videos", False, "Write a benchmark's results as arrays too, for metrics of networks that you have."
)
LPIPS = flags.DEFINE_string("lpips", None, "The imported network of LPIPS, for a benchmark's metric of that name.")

SHEET_FRAMES = 6
DEFAULT_FRAMES = {
    "people": 48,
    "manifest": 64,
    "long_video": 500,
    "sound": 100,
    "anchors": 1500,
    "attention_entropy": 16,
    "motion": 8,
    "speed": 48,
}


def main() -> None:
    """Evaluates and writes the report."""
    for flag in (CONFIG, OUTPUT):
        if flag.value is None:
            raise ConfigError(f"--{flag.name} is missing; see --help")
    kind = "manifest" if MANIFEST.value else ANALYSIS.value
    if MANIFEST.value and ANALYSIS.value != "people":
        raise ConfigError("--manifest and --analysis are two evaluations; give one of them")
    if VARIANTS.value and kind != "speed":
        raise ConfigError(
            "--variant is for --analysis speed; to set it for this run, write --config.sampling.NAME=VALUE"
        )
    config, output = CONFIG.value, cli.output_folder("output", OUTPUT.value)
    executables.keep()
    frames = FRAMES.value or DEFAULT_FRAMES[kind]
    system, mesh = systems.build_system(config), meshes.sampling_mesh(MESH.value)
    trained = load_system_params(system, CHECKPOINT.value, mesh=mesh)
    settings = {
        "config": json.loads(config.to_json_best_effort()),
        "checkpoint": identify(CHECKPOINT.value or EMBEDDED[system.name]),
        "probe": identify(PROBE.value),
        "frames": frames,
        **{flag.name: flag.value for flag in (IDENTITIES, SEED, STEPS, GUIDANCE)},
        **({"variants": VARIANTS.value} if kind == "speed" else {}),
    }
    if mesh is not None:
        settings["mesh"] = dict(mesh.shape)
    compiled = Animator(system, trained, STEPS.value, GUIDANCE.value, mesh=mesh)
    if kind == "manifest":
        options = manifest.Options(
            MANIFEST.value, output, frames, SEED.value, JUDGE.value, PROBE.value, LANDMARKER.value, RECOGNISER.value,
            LPIPS.value, KEEP_VIDEOS.value,
        )  # fmt: skip
        manifest.run(compiled, options, settings)
        return
    fitting = FITTING.get(system.driven_by, ("people", "long_video", "speed"))
    if kind not in fitting:
        raise ConfigError(
            f"{system.name} is driven by {system.driven_by}, which --analysis {kind} does not give or has no use for; use "
            f"{' or '.join(fitting)}"
        )
    chosen = Options(
        output, IDENTITIES.value, frames, SEED.value, PROBE.value, LANDMARKER.value, ANCHORS.value, VARIANTS.value
    )
    if kind in HEARD:
        HEARD[kind](compiled, chosen, settings)
    elif kind in SEEN:
        SEEN[kind](compiled, chosen, settings)
    else:
        people(config, compiled, output, frames, settings)


def people(config: ConfigDict, compiled: Animator, output: Path, frames: int, settings: dict[str, Any]) -> None:
    """Unseen procedural people, beside both baselines and the untrained system."""
    system, trained, detector = compiled.system, compiled.params, Detector.load(PROBE.value)
    fresh = run_once(functools.partial(system.init, stage=config.stage), jax.random.key(SEED.value))
    methods = {
        "trained": method(compiled),
        # Its autoencoder is the trained one: without it there would be no picture to judge.
        "untrained": method(replace(compiled, params={**fresh, "autoencoder": trained["autoencoder"]}, _compiled={})),
        **BASELINES,
    }
    if system.driven_by != "landmarks":
        # Pictures of a driver show more than its motion: the control says how much can be scored without any.
        methods["shuffled driver"] = shuffled(methods["trained"], SEED.value)
    settled = functools.partial(evaluation_cases, IDENTITIES.value, frames, system.image_size, SEED.value)
    groups = {"same identity": settled(cross=False), "cross identity": settled(cross=True)}
    table, sheet = run(methods, groups, detector)
    report.write(table, output, settings)
    write_image(output / "comparison.png", sheet)
    title = f"{system.name}: {IDENTITIES.value} unseen people, {frames} frames each"
    Console().print(report.terminal(table, title))
    print(f"written to {OUTPUT.value}: metrics.json, table.md, comparison.png")


def method(compiled: Animator) -> Method:
    """An animator as a method of the suite; compiled once for all cases."""
    return functools.partial(animate, compiled, seed=SEED.value, landmarker=LANDMARKER.value)


def run(methods: dict[str, Method], groups: dict[str, list[Case]], detector: Detector) -> tuple[Table, np.ndarray]:
    """The suite's table, and a sheet of the first case of each group: one row per method, frames from left to right."""
    rows, labels = [], []

    def keep(group: str, method: str, case: Case, video: np.ndarray) -> None:
        if case is groups[group][0]:
            rows.append([video[i] for i in np.linspace(0, len(video) - 1, SHEET_FRAMES).astype(int)])
            labels.append(f"{group}: {method}")

    with Bars("people") as bars:
        shown = {group: bars.track(cases, group, len(cases)) for group, cases in groups.items()}
        table = evaluate(methods, shown, detector, average_person=average_person(), done=keep)
    return table, contact_sheet(rows, labels)


if __name__ == "__main__":
    cli.run(main, __doc__, interrupted="nothing was written")
