"""From files to files: streamed segments, resume after an interruption, sound, contact sheet and settings.

Several portraits with one driver are animated together: one batch, one folder of finished parts, a video for each.
"""

from __future__ import annotations

import json
import shutil
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from portrait_jax import __version__
from portrait_jax.animation import parts
from portrait_jax.animation.animator import Animator
from portrait_jax.animation.drivers import driver_of
from portrait_jax.animation.driving import is_sequence
from portrait_jax.animation.extension import Extension, extended
from portrait_jax.animation.job import Job, check_outputs
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
from portrait_jax.typing import Image, UInt8

SHEET_COLUMNS = 8
TOGETHER = "together.parts"
"""Folder of finished parts of several videos, beside them."""


class Ready(NamedTuple):
    """A job whose inputs are read, and the folder where its finished segments go."""

    job: Job
    portrait: Portrait
    drive: Drive
    segments: Path


def animate_files(
    animator: Animator,
    job: Job,
    *,
    extension: Extension | None = None,
    about: Mapping[str, Any] | None = None,
    report: Report = silent,
) -> dict[str, Any]:
    """`animate_together` of one portrait; returns what the JSON holds."""
    return animate_together(animator, [job], extension=extension, about=about, report=report)[0]


def animate_together(
    animator: Animator,
    jobs: Sequence[Job],
    *,
    extension: Extension | None = None,
    about: Mapping[str, Any] | None = None,
    report: Report = silent,
) -> list[dict[str, Any]]:
    """Writes the videos, and beside each a contact sheet (`.png`) and all settings (`.json`).

    Args:
        jobs: one, or several that differ in the portrait, its landmarks and the output, each a file of the same folder; they are
            one batch (`Animator.videos`), and each video is what its job makes alone.
        extension: how the video goes on after the driver's end.
        about: what else to record, such as the config and what the weights are (`training.params.identify`); a resumed run
            must have the same.
        report: told about progress.

    Returns:
        what the JSON of each holds.

    Raises:
        PortraitError: for every unusable input; nothing but the folder of finished segments is left behind.
    """
    check_outputs(jobs)
    job, several = jobs[0], len(jobs) > 1
    if extension is not None:
        extension.check(animator.system)
    if job.control is not None and not driver_of(animator.system).control:
        raise ConfigError(
            f"--control means nothing to {animator.system.name}, which reads no control pictures; leave it out"
        )
    if several and job.control is not None and _searched(job, animator) == "body":
        raise ConfigError(
            "the body in a --control video is measured against one portrait; store its skeletons (docs/hunyuan_portrait.md), or "
            "animate the portraits one after another"
        )
    # Whatever can be wrong with the inputs should show before hours of work, not after them.
    portraits = [_portrait(each, animator) for each in jobs]
    sound = driver_of(animator.system).sound(job.driving) if job.audio is None else job.audio
    if job.audio is not None:
        check_audible(read_blocks(job.audio), source=job.audio)
    settings = [_settings(each, animator, extension, about or {}) for each in jobs]
    if several:
        for each in settings:
            each["together"] = [one.output.stem for one in jobs]
    folder = job.output.with_name(TOGETHER) if several else job.parts
    own = [folder / f"video_{each.output.stem}" if several else folder for each in jobs]
    begun = {each.output.stem: of for each, of in zip(jobs, settings)} if several else settings[0]
    parts.open_parts(folder, begun, resume=job.resume)
    try:
        ready = [
            Ready(one, portrait, _drive(animator, one, portrait, folder, sound, extension, report), place)
            for one, portrait, place in zip(jobs, portraits, own)
        ]
        kept = _sample(animator, ready, folder, report)
        records = [_finish(each, sound, of, {i: seen[k] for i, seen in kept.items()})
                   for k, (each, of) in enumerate(zip(ready, settings))]  # fmt: skip
    except PortraitError:
        if not any(map(parts.segments, own)):
            shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder)
    return records


def _drive(
    animator: Animator,
    job: Job,
    portrait: Portrait,
    folder: Path,
    sound: Path | None,
    extension: Extension | None,
    report: Report,
) -> Drive:
    drive = driver_of(animator.system).load(_request(animator, job, portrait, folder, report))
    if sound is not None and sound != job.audio:
        # Decoded to its end once, after the pictures, which say more clearly what is wrong with a truncated file.
        deque(read_blocks(sound), maxlen=0)
    if extension is not None:
        drive = extended(drive, animator.system, animator.params, extension, seed=job.seed, cache=folder, report=report)
    return drive


def _finish(ready: Ready, sound: Path | None, settings: dict[str, Any], kept: Mapping[int, Image]) -> dict[str, Any]:
    """Joins the segments; writes the sheet and the record, and returns this."""
    job, drive = ready.job, ready.drive
    concat_segments(parts.segments(ready.segments), job.output, sound, fps=drive.fps)
    write_image(job.sheet, _sheet(ready.portrait, drive, kept))
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
    return record


def _detector(job: Job) -> Callable[[], FaceDetector]:
    return partial(FaceDetector, job.landmarker, job.face)


def _bundle(job: Job) -> Callable[[], Path]:
    return lambda: model_path(job.landmarker)


def _portrait(job: Job, animator: Animator) -> Portrait:
    """Reads it; raises PortraitError if it cannot be used."""
    portrait = _read_portrait(job, animator)
    if job.paste_back and (portrait.picture is None or portrait.place is None):
        raise InputFileError(
            f"{job.portrait} is not animated as a part cut out of it, so there is nothing to paste back into; leave --paste_back "
            "out, or give a larger picture with room around the face and sampling.framing 'face' or 'wide'"
        )
    return portrait


def _read_portrait(job: Job, animator: Animator) -> Portrait:
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


def _request(animator: Animator, job: Job, portrait: Portrait, folder: Path, report: Report) -> Request:
    return Request(
        job.driving, animator.system, animator.params, portrait, folder, job.fps, job.rotation, _detector(job), _bundle(job),
        report, job.prompts, job.control, partial(pose.PoseDetector, job.pose_landmarker),
    )  # fmt: skip


def _searched(job: Job, animator: Animator) -> str:
    """What is searched in the control video: "face", "body" or "" for nothing."""
    return "" if job.control is None or is_sequence(job.control) else driver_of(animator.system).control


def _settings(job: Job, animator: Animator, extension: Extension | None, about: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that the video depends on."""
    driver, searched = driver_of(animator.system), _searched(job, animator)
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
        **({} if extension is None else {"extension": extension.settings}),
    }


def _sample(
    animator: Animator, ready: Sequence[Ready], folder: Path, report: Report
) -> dict[int, UInt8[np.ndarray, "b h w 3"]]:
    """Writes one segment per chunk and video, then where to go on; returns the frames that the contact sheets show."""
    drive, seed = ready[0].drive, ready[0].job.seed
    count = drive.count
    position, kept = parts.load_position(folder, animator)
    done = 0 if position is None else animator.plan(count).first_frame(position.window)
    report("animating", done, count)
    portraits, signals = [each.portrait.image for each in ready], [each.drive.signals for each in ready]
    for videos, after in animator.videos(portraits, signals, count, seed=seed, start=position):
        new = videos.shape[1]
        for each, frames in zip(ready, videos):
            _write(each, frames, done)
        # Copies: a view would keep its whole chunk in memory.
        kept.update({i: videos[:, i - done].copy() for i in drive.shown if done <= i < done + new})
        done += new
        parts.save_position(folder, after, kept)
        report("animating", done, count)
    return kept


def _write(ready: Ready, frames: UInt8[np.ndarray, "f h w 3"], first: int) -> None:
    """A segment of frames from number `first` on; none without frames."""
    if not len(frames):
        return
    ready.segments.mkdir(exist_ok=True)
    with VideoWriter(parts.segment(ready.segments, first), ready.drive.fps) as writer:
        for frame in frames:
            writer.write(_placed(frame, ready.portrait) if ready.job.paste_back else frame)


def _placed(frame: UInt8[np.ndarray, "s s 3"], portrait: Portrait) -> Image:
    """A frame of the result in the whole picture that its portrait was cut from."""
    assert portrait.picture is not None and portrait.place is not None
    return paste(frame, portrait.picture, portrait.place)


def _sheet(portrait: Portrait, drive: Drive, kept: Mapping[int, Image]) -> np.ndarray:
    """Rows: what the driver shows (a video and its landmarks, say), then the result beside the portrait."""
    there = [number for number in drive.shown if number in kept]
    there = [there[j] for j in np.linspace(0, len(there) - 1, min(SHEET_COLUMNS, len(there))).astype(int)]
    blank = np.full_like(portrait.image, 235)
    rows = [[blank, *pictures(there)] for pictures in drive.rows.values()]
    rows.append([portrait.image, *(kept[number] for number in there)])
    labels = ["portrait", *(f"{number / drive.fps:.1f} s" for number in there)]
    return contact_sheet(rows, (*drive.rows, "result"), labels)
