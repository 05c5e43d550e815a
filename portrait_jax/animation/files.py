"""From files to files: streamed segments, resume after an interruption, sound, contact sheet and settings."""

from __future__ import annotations

import json
import shutil
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from portrait_jax import __version__
from portrait_jax.animation import parts
from portrait_jax.animation.animator import Animator
from portrait_jax.animation.drivers import driver_of
from portrait_jax.animation.driving import is_sequence
from portrait_jax.animation.extension import Extension, extended
from portrait_jax.animation.portrait import Portrait, is_by_hand, load_portrait, nobody
from portrait_jax.animation.signals import Drive, Report, Request, silent
from portrait_jax.errors import ConfigError, InputFileError, PortraitError
from portrait_jax.face import pose
from portrait_jax.face.detector import FaceDetector, model_path
from portrait_jax.face.squares import paste
from portrait_jax.media.audio import check_audible, read_blocks
from portrait_jax.media.files import atomic_output, checked_input, digest
from portrait_jax.media.image import write_image
from portrait_jax.media.mux import concat_segments
from portrait_jax.media.sheets import contact_sheet
from portrait_jax.media.video import VideoWriter
from portrait_jax.systems.system import frame_size
from portrait_jax.typing import Image, Int, UInt8

SHEET_COLUMNS = 8


@dataclass(frozen=True)
class Job:
    """What to animate with what, and where to put it; see `launch.animate` for each field."""

    portrait: Path | None
    driving: Path
    output: Path
    audio: Path | None = None
    portrait_landmarks: Path | None = None
    landmarker: Path | None = None
    face: str = "only"
    fps: float | None = None
    seed: int = 0
    rotation: str = "absolute"
    prompts: Mapping[str, Int[np.ndarray, " n"]] = field(default_factory=dict)
    control: Path | None = None
    pose_landmarker: Path | None = None
    paste_back: bool = False
    resume: bool = False

    @property
    def parts(self) -> Path:
        """Folder of finished segments, beside the output; it goes when the output is there."""
        return self.output.with_name(self.output.stem + ".parts")

    @property
    def sheet(self) -> Path:
        return self.output.with_suffix(".png")

    @property
    def record(self) -> Path:
        return self.output.with_suffix(".json")


def animate_files(
    animator: Animator,
    job: Job,
    *,
    extension: Extension | None = None,
    about: Mapping[str, Any] | None = None,
    report: Report = silent,
) -> dict[str, Any]:
    """Writes the video, and beside it a contact sheet (`.png`) and all settings (`.json`).

    Args:
        extension: how the video goes on after the driver's end.
        about: what else to record, such as the config and what the weights are (`training.params.identify`); a resumed run
            must have the same.
        report: told about progress.

    Returns:
        what the JSON holds.

    Raises:
        PortraitError: for every unusable input; nothing but the folder of finished segments is left behind.
    """
    _check_output(job)
    if extension is not None:
        extension.check(animator.system)
    if job.control is not None and not driver_of(animator.system).control:
        raise ConfigError(
            f"--control means nothing to {animator.system.name}, which reads no control pictures; leave it out"
        )
    # Whatever can be wrong with the inputs should show before hours of work, not after them.
    portrait = _portrait(job, animator)
    if job.paste_back and (portrait.picture is None or portrait.place is None):
        raise InputFileError(
            f"{job.portrait} is not animated as a part cut out of it, so there is nothing to paste back into; leave --paste_back "
            "out, or give a larger picture with room around the face and sampling.framing 'face' or 'wide'"
        )
    sound = driver_of(animator.system).sound(job.driving) if job.audio is None else job.audio
    if job.audio is not None:
        check_audible(read_blocks(job.audio), source=job.audio)
    settings = _settings(job, animator, about or {})
    if extension is not None:
        settings["extension"] = extension.settings
    parts.open_parts(job.parts, settings, resume=job.resume)
    try:
        return _animate(animator, job, portrait, sound, extension, settings, report)
    except PortraitError:
        if not parts.segments(job.parts):
            shutil.rmtree(job.parts, ignore_errors=True)
        raise


def _animate(
    animator: Animator,
    job: Job,
    portrait: Portrait,
    sound: Path | None,
    extension: Extension | None,
    settings: dict[str, Any],
    report: Report,
) -> dict[str, Any]:
    drive = driver_of(animator.system).load(_request(animator, job, portrait, report))
    if sound is not None and sound != job.audio:
        # Decoded to its end once, after the pictures, which say more clearly what is wrong with a truncated file.
        deque(read_blocks(sound), maxlen=0)
    if extension is not None:
        drive = extended(
            drive, animator.system, animator.params, extension, seed=job.seed, cache=job.parts, report=report
        )
    kept = _sample(animator, job, portrait, drive, report)
    concat_segments(parts.segments(job.parts), job.output, sound, fps=drive.fps)
    write_image(job.sheet, _sheet(portrait, drive, kept))
    record = {
        **settings,
        "frames": drive.count,
        "fps": drive.fps,
        "audio": None if sound is None else str(sound),
        "version": __version__,
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
    }
    with atomic_output(job.record) as partial_file:
        partial_file.write_text(json.dumps(record, indent=2) + "\n")
    shutil.rmtree(job.parts)
    return record


def _check_output(job: Job) -> None:
    if job.output.suffix.lower() != ".mp4":
        raise InputFileError(f"the output '{job.output}' must end in .mp4")
    inputs = [
        path.resolve() for path in (job.portrait, job.driving, job.audio, job.portrait_landmarks, job.control) if path
    ]
    for path in (job.output, job.sheet, job.record):
        if path.is_dir():
            raise InputFileError(f"{path}, which is to be written, is a folder; choose another output")
        if path.resolve() in inputs:
            raise InputFileError(f"{path}, which is to be written, is an input; choose another output")


def _detector(job: Job) -> Callable[[], FaceDetector]:
    return partial(FaceDetector, job.landmarker, job.face)


def _bundle(job: Job) -> Callable[[], Path]:
    return lambda: model_path(job.landmarker)


def _portrait(job: Job, animator: Animator) -> Portrait:
    system = animator.system
    if job.portrait is None:
        if getattr(system, "needs_portrait", True):
            raise ConfigError(
                f"--portrait is missing: {system.name} is told who it is by a picture; only where a prompt alone says it, with "
                "anyexpress, --id_scale 0 and no model.behaviour.portrait_latents, none is needed"
            )
        return nobody(*frame_size(system))
    load = partial(
        load_portrait, job.portrait, system.image_size, framing=system.sampling.framing, frame=frame_size(system)
    )
    if job.portrait_landmarks is not None:
        return load(landmarks=job.portrait_landmarks, bundle=_bundle(job))
    with _detector(job)() as found:
        return load(detector=found)


def _request(animator: Animator, job: Job, portrait: Portrait, report: Report) -> Request:
    return Request(
        job.driving, animator.system, animator.params, portrait, job.parts, job.fps, job.rotation, _detector(job), _bundle(job),
        report, job.prompts, job.control, partial(pose.PoseDetector, job.pose_landmarker),
    )  # fmt: skip


def _settings(job: Job, animator: Animator, about: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that the video depends on."""
    driver = driver_of(animator.system)
    searched = "" if job.control is None or is_sequence(job.control) else driver.control
    detects = (
        (job.portrait is not None and job.portrait_landmarks is None)
        or driver.detects(job.driving)
        or searched == "face"
    )
    measures = driver.measures(animator.system.sampling.alignment) or is_by_hand(job.portrait_landmarks)
    files = {
        "portrait": job.portrait,
        "portrait_landmarks": job.portrait_landmarks,
        "driving": job.driving,
        "audio": job.audio,
        "control": job.control,
        "face_landmarker": model_path(job.landmarker) if detects or measures else None,
        "pose_landmarker": pose.model_path(job.pose_landmarker) if searched == "body" else None,
    }
    return {
        **about,
        "inputs": {
            name: {"path": str(path), "sha256": digest(checked_input(path, name))}
            for name, path in files.items()
            if path is not None
        },
        "sampling": animator.settings,
        "system": animator.system.name,
        "size": animator.system.image_size,
        "seed": job.seed,
        "face": job.face,
        "fps_asked": job.fps,
        "rotation": job.rotation,
        "paste_back": job.paste_back,
        "prompts": {name: ids.tolist() for name, ids in job.prompts.items()},
        **({} if animator.mesh is None else {"mesh": dict(animator.mesh.shape)}),
    }


def _sample(animator: Animator, job: Job, portrait: Portrait, drive: Drive, report: Report) -> dict[int, np.ndarray]:
    """Writes one segment per chunk, then where to go on; returns the frames that the contact sheet shows."""
    count = drive.count
    position, kept = parts.load_position(job.parts, animator)
    done = 0 if position is None else animator.plan(count).first_frame(position.window)
    report("animating", done, count)
    for frames, after in animator.frames(portrait.image, drive.signals, count, seed=job.seed, start=position):
        if len(frames):
            with VideoWriter(parts.segment(job.parts, done), drive.fps) as writer:
                for frame in frames:
                    writer.write(_placed(frame, portrait) if job.paste_back else frame)
        # Copies: a view would keep its whole chunk in memory.
        kept.update({i: frames[i - done].copy() for i in drive.shown if done <= i < done + len(frames)})
        done += len(frames)
        parts.save_position(job.parts, after, kept)
        report("animating", done, count)
    return kept


def _placed(frame: UInt8[np.ndarray, "s s 3"], portrait: Portrait) -> Image:
    """A frame of the result in the whole picture that its portrait was cut from."""
    assert portrait.picture is not None and portrait.place is not None
    return paste(frame, portrait.picture, portrait.place)


def _sheet(portrait: Portrait, drive: Drive, kept: dict[int, np.ndarray]) -> np.ndarray:
    """Rows: what the driver shows (a video and its landmarks, say), then the result beside the portrait."""
    there = [number for number in drive.shown if number in kept]
    there = [there[j] for j in np.linspace(0, len(there) - 1, min(SHEET_COLUMNS, len(there))).astype(int)]
    blank = np.full_like(portrait.image, 235)
    rows = [[blank, *pictures(there)] for pictures in drive.rows.values()]
    rows.append([portrait.image, *(kept[number] for number in there)])
    labels = ["portrait", *(f"{number / drive.fps:.1f} s" for number in there)]
    return contact_sheet(rows, (*drive.rows, "result"), labels)
