"""Animates a portrait by a driving video, a stored landmark sequence, or a sound: by what the system is driven by.

    python -m launch.animate --config configs/follow_your_emoji.py:demo \\
        --portrait portrait.png --driving video.mp4 --output out.mp4

The driving video's frame rate and sound are kept unless --fps or --audio say otherwise. Beside OUTPUT appear a contact sheet
(.png) and all settings (.json). Several --portrait make a video each in the folder OUTPUT, all in one batch. After an
interruption the same command with --resume goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags

from launch import cli, executables, meshes
from launch.priors import load_extension
from portrait_jax import systems
from portrait_jax.animation import Animator
from portrait_jax.animation.files import animate_together
from portrait_jax.animation.job import Job
from portrait_jax.errors import ConfigError
from portrait_jax.interchange import resolve
from portrait_jax.interchange.processors import load_tokenizer
from portrait_jax.interchange.published import identify_base
from portrait_jax.progress import Bars
from portrait_jax.systems.loading import EMBEDDED, load_system_params, pose_control
from portrait_jax.systems.system import System
from portrait_jax.training.params import identify

flags.adopt_module_key_flags(executables)  # --help names it too.
CONFIG = config_flags.DEFINE_config_file("config", "configs/follow_your_emoji.py:demo", "Config file and stage.")
CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "Parameters: a .safetensors file or a run's directory. Default: the demo's."
)
PORTRAIT = flags.DEFINE_multi_string(
    "portrait",
    [],
    "Image file of the portrait; none where the prompt alone says who it is (--id_scale 0). Given several times: portraits that "
    "the same driver animates together, a video each in the folder OUTPUT.",
)
PORTRAIT_LANDMARKS = flags.DEFINE_multi_string(
    "portrait_landmarks",
    [],
    "Where no detector sees its face: landmarks (.npz), or points set by hand (.json); once for each portrait, or not at all.",
)
DRIVING = flags.DEFINE_string(
    "driving",
    None,
    "Driving video, or a stored landmark sequence (.npz); for what sound drives, a sound or a video with it.",
)
AUDIO = flags.DEFINE_string("audio", None, "File whose sound is used instead of the driving video's.")
OUTPUT = flags.DEFINE_string("output", None, "The video to write, ending in .mp4; for several portraits a folder.")
SEED = flags.DEFINE_integer("seed", 0, "Seed of the noise.", lower_bound=0)
STEPS = flags.DEFINE_integer("steps", None, "Solver steps.", lower_bound=1, upper_bound=1000)
GUIDANCE = flags.DEFINE_float("guidance", None, "Guidance scale; 1 is none and twice as fast.", lower_bound=0)
FPS = flags.DEFINE_float(
    "fps",
    None,
    "Frame rate; default the driving video's, or the training's.",
    lower_bound=1,
    upper_bound=240,
)
FACE = flags.DEFINE_string("face", "only", "Which face: 'only', 'largest', or its number from the left (0, 1, …).")
ROTATION = flags.DEFINE_enum(
    "rotation",
    "absolute",
    ["absolute", "relative"],
    "Take the driver's head rotation, or add its changes to the portrait's.",
)
LANDMARKER = flags.DEFINE_string(
    "face_landmarker", None, "MediaPipe's face_landmarker.task; default: see docs/animate.md."
)
POSE_LANDMARKER = flags.DEFINE_string(
    "pose_landmarker", None, "MediaPipe's pose_landmarker.task, for the body of a --control video."
)
EXTEND = flags.DEFINE_float(
    "extend", None, "Seconds by which a motion prior goes on after the driver's end (systems driven by faces)."
)
PRIOR = flags.DEFINE_string("prior", None, "The motion prior: a .safetensors file or a training's workdir.")
EMOTION = flags.DEFINE_integer("emotion", None, "Label of the feeling in which the prior goes on.", lower_bound=0)
BASE = flags.DEFINE_list(
    "base",
    [],
    "What takes the place of --checkpoint's base: a personalised model, a pose control …, as published (a file, a diffusers "
    "folder, hub:org/name) or imported.",
)
PROMPT = flags.DEFINE_string("prompt", None, "What is to be seen, for systems that read text; needs --tokenizer.")
NEGATIVE_PROMPT = flags.DEFINE_string("negative_prompt", None, "What is not; needs --tokenizer.")
TOKENIZER = flags.DEFINE_string(
    "tokenizer", None, "Folder of the text encoder's tokenizer (CLIP's or T5's), or hub:org/name/tokenizer."
)
CONTROL = flags.DEFINE_string(
    "control",
    None,
    "What steers the pose: for anyexpress a video or landmarks (.npz) of a face, for hunyuan_portrait of a body (skeletons).",
)
ID_SCALE = flags.DEFINE_float("id_scale", None, "How strongly the portrait speaks beside the prompt.", 0, 1.5)
CONTROL_SCALE = flags.DEFINE_float("control_scale", None, "How strongly --control acts.", 0, 2)
AUDIO_SCALE = flags.DEFINE_float("audio_scale", None, "How strongly the sound acts.", 0, 2)
PASTE_BACK = flags.DEFINE_bool(
    "paste_back", False, "Put the result back into the whole picture, in its size, where the portrait was cut out."
)
MESH = flags.DEFINE_list("mesh", [], "Devices that work together, such as data=2 or data=2,fsdp=4; default one.")
RESUME = flags.DEFINE_bool("resume", False, "Go on with an interrupted run.")

NEEDED = (DRIVING, OUTPUT)


def main() -> None:
    """Checks the flags, loads the system, animates."""
    for flag in NEEDED:
        if not flag.value:
            raise ConfigError(f"--{flag.name} is missing; give it (--help says what each flag takes)")
    executables.keep()
    config, mesh = CONFIG.value, meshes.sampling_mesh(MESH.value)
    set_scales(config)
    bases = [resolve(path) for path in BASE.value]
    if CONTROL.value and config.model.get("behaviour", ConfigDict()).get("control") == "none":
        config.model.behaviour.control = pose_control(bases)
        if config.model.behaviour.control == "none":
            raise ConfigError("--control steers by a T2I-Adapter or a ControlNet; name one by --base")
    system = systems.build_system(config)
    params = load_system_params(system, CHECKPOINT.value, bases, mesh)
    extension = load_extension(PRIOR.value, EXTEND.value, EMOTION.value)
    job = Job(
        portrait=None,
        driving=Path(DRIVING.value),
        output=Path(OUTPUT.value),
        audio=optional_path(AUDIO.value),
        landmarker=optional_path(LANDMARKER.value),
        face=FACE.value,
        fps=FPS.value,
        seed=SEED.value,
        rotation=ROTATION.value,
        prompts=prompts(system),
        control=optional_path(CONTROL.value),
        pose_landmarker=optional_path(POSE_LANDMARKER.value),
        paste_back=PASTE_BACK.value,
        resume=RESUME.value,
    )
    jobs = each_portrait(job, *(list(filter(None, flag.value)) for flag in (PORTRAIT, PORTRAIT_LANDMARKS)))
    about = {
        "config": json.loads(config.to_json_best_effort()),
        "checkpoint": identify_base(CHECKPOINT.value or EMBEDDED[system.name]),
        "base": [identify_base(path) for path in bases],
    }
    if PRIOR.value:
        about["prior"] = identify(PRIOR.value)
    animator = Animator(system, params, STEPS.value, GUIDANCE.value, mesh=mesh)
    with Bars() as bars:
        records = animate_together(animator, jobs, extension=extension, about=about, report=bars.report)
    for each, record in zip(jobs, records, strict=True):
        frames = f"{record['frames']} frames at {record['fps']:g} fps"
        print(f"{each.output}: {frames}; contact sheet {each.sheet}, settings {each.record}")
    executables.tell()


def set_scales(config: ConfigDict) -> None:
    """Puts the scales that were given into the config; raises ConfigError if its system has no such thing."""
    places = (
        (ID_SCALE, "model.behaviour.id_scale"),
        (CONTROL_SCALE, "model.behaviour.control_scale"),
        (AUDIO_SCALE, "model.audio.scale"),
    )
    for flag, place in places:
        if flag.value is None:
            continue
        section = config
        for key in place.split(".")[:-1]:
            section = section.get(key, ConfigDict())
        if place.split(".")[-1] not in section:
            raise ConfigError(
                f"--{flag.name} means nothing to '{config.task}', whose config has no {place}; leave it out"
            )
        config.update_from_flattened_dict({place: flag.value})


def each_portrait(job: Job, portraits: Sequence[str], landmarks: Sequence[str]) -> list[Job]:
    """The job of each portrait, whose output is a file in the job's folder if there are several.

    Raises:
        ConfigError: for landmarks of some portraits only; for several portraits and an output that is a file.
    """
    if landmarks and len(landmarks) != max(len(portraits), 1):
        raise ConfigError(
            f"--portrait_landmarks is given {len(landmarks)} times for {len(portraits)} portraits; give it once for each, in "
            "their order"
        )
    points = [*map(Path, landmarks)] if landmarks else [None] * max(len(portraits), 1)
    if len(portraits) < 2:
        portrait = Path(portraits[0]) if portraits else None
        return [replace(job, portrait=portrait, portrait_landmarks=points[0])]
    folder = cli.output_folder("output", job.output)
    if folder.suffix.lower() == ".mp4":
        raise ConfigError(f"--output {job.output}: {len(portraits)} portraits make a video each; give a folder")
    return [
        replace(job, portrait=Path(name), portrait_landmarks=own, output=job.output / f"{Path(name).stem}.mp4")
        for name, own in zip(portraits, points, strict=True)
    ]


def prompts(system: System) -> dict[str, np.ndarray]:
    """Token ids of the prompts that were given."""
    texts = {"text": PROMPT.value, "negative_text": NEGATIVE_PROMPT.value}
    given = {name: value for name, value in texts.items() if value is not None}
    if not given:
        return {}
    length = getattr(system, "prompt_length", None)
    if length is None:
        raise ConfigError(f"a prompt means nothing to '{system.name}', which reads no text; leave it out")
    if not TOKENIZER.value:
        raise ConfigError(
            "a prompt is given and nothing that reads it; name the tokenizer of the system's text encoder by --tokenizer"
        )
    return {name: load_tokenizer(TOKENIZER.value, length)([value])[0] for name, value in given.items()}


def optional_path(value: str | None) -> Path | None:
    """A path, if a flag was given."""
    return Path(value) if value else None


if __name__ == "__main__":
    cli.run(main, __doc__, interrupted="the same command with --resume goes on where it was")
