"""From files to files: streamed segments, resume after an interruption, sound, contact sheet and settings."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from portrait_jax import __version__
from portrait_jax.animation.animator import Animator, Progress, control_drawing
from portrait_jax.animation.driving import Driving, Report, is_sequence, load_driving, silent
from portrait_jax.animation.portrait import Portrait, load_portrait
from portrait_jax.errors import InputFileError, PortraitError
from portrait_jax.face.alignment import retarget
from portrait_jax.face.detector import FaceDetector
from portrait_jax.long_video.overlap import init_carry
from portrait_jax.media.audio import read_clip
from portrait_jax.media.files import atomic_output, checked_input
from portrait_jax.media.image import write_image
from portrait_jax.media.sheets import contact_sheet
from portrait_jax.media.video import VideoWriter, concat_segments, probe
from portrait_jax.typing import Landmarks, Video

SHEET_COLUMNS = 8
SEGMENTS = "segment_*.mp4"


@dataclass(frozen=True)
class Job:
    """What to animate with what, and where to put it; see `launch.animate` for each field."""

    portrait: Path
    driving: Path
    output: Path
    audio: Path | None = None
    portrait_landmarks: Path | None = None
    landmarker: Path | None = None
    face: str = "only"
    fps: float | None = None
    seed: int = 0
    rotation: str = "absolute"
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
    animator: Animator, job: Job, *, about: Mapping[str, Any] | None = None, report: Report = silent
) -> dict[str, Any]:
    """Writes the video, and beside it a contact sheet (`.png`) and all settings (`.json`).

    Args:
        about: what else to record, such as config and checkpoint; a resumed run must have the same.
        report: told about progress.

    Returns:
        what the JSON holds.

    Raises:
        PortraitError: for every unusable input; nothing but the folder of finished segments is left behind.
    """
    _check_output(job)
    # Whatever can be wrong with the inputs should show before hours of work, not after them.
    portrait = _portrait(job, animator.system.image_size)
    sound = _sound(job)
    fingerprint = _fingerprint(job, animator, about or {})
    _open_parts(job, fingerprint)
    try:
        return _animate(animator, job, portrait, sound, fingerprint, report)
    except PortraitError:
        if not any(job.parts.glob(SEGMENTS)):
            shutil.rmtree(job.parts, ignore_errors=True)
        raise


def _animate(
    animator: Animator, job: Job, portrait: Portrait, sound: Path | None, fingerprint: dict[str, Any], report: Report
) -> dict[str, Any]:
    clip = None if job.audio is None else read_clip(job.audio)
    driving = load_driving(job.driving, fps=job.fps, detector=_detector(job), cache=job.parts, report=report)
    if clip is None and sound is not None:
        # After the pictures, which say more clearly what is wrong with a truncated file.
        clip = read_clip(sound)
    points = retarget(driving.sequence.landmarks, portrait.landmarks, mode=job.rotation)
    kept = _sample(animator, job, portrait, points, driving, report)
    concat_segments(sorted(job.parts.glob(SEGMENTS)), job.output, clip, fps=driving.sequence.fps)
    write_image(job.sheet, _sheet(portrait, driving, points, kept, animator))
    record = {
        **fingerprint,
        "frames": len(points),
        "fps": driving.sequence.fps,
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
    inputs = [path.resolve() for path in (job.portrait, job.driving, job.audio, job.portrait_landmarks) if path]
    for path in (job.output, job.sheet, job.record):
        if path.is_dir():
            raise InputFileError(f"{path}, which is to be written, is a folder; choose another output")
        if path.resolve() in inputs:
            raise InputFileError(f"{path}, which is to be written, is an input; choose another output")


def _detector(job: Job) -> Callable[[], FaceDetector]:
    return partial(FaceDetector, job.landmarker, job.face)


def _portrait(job: Job, size: int) -> Portrait:
    if job.portrait_landmarks is not None:
        return load_portrait(job.portrait, size, landmarks=job.portrait_landmarks)
    with _detector(job)() as found:
        return load_portrait(job.portrait, size, detector=found)


def _sound(job: Job) -> Path | None:
    """The file whose sound is used."""
    if job.audio is not None or is_sequence(job.driving):
        return job.audio
    return job.driving if probe(job.driving).has_audio else None


def _fingerprint(job: Job, animator: Animator, about: Mapping[str, Any]) -> dict[str, Any]:
    """Everything the frames depend on."""
    files = {"portrait": job.portrait, "driving": job.driving, "portrait_landmarks": job.portrait_landmarks}
    return {
        **about,
        "inputs": {
            name: {"path": str(path), "sha256": _digest(checked_input(path, name))}
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
    }


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open_parts(job: Job, fingerprint: dict[str, Any]) -> None:
    """Makes the folder of segments, or checks that the one to resume belongs to the same job."""
    record = job.parts / "job.json"
    wanted = json.loads(json.dumps(fingerprint))
    if job.resume and record.exists():
        stored = json.loads(record.read_text())
        different = sorted(name for name in wanted if stored.get(name) != wanted[name])
        if different:
            raise InputFileError(
                f"{job.parts} was begun with other settings ({', '.join(different)}); use those again, or start anew "
                "without --resume"
            )
        return
    if not record.exists() and any(job.parts.glob("[!.]*")):
        raise InputFileError(f"{job.parts} exists and is not of this program; remove it or choose another output")
    try:
        shutil.rmtree(job.parts, ignore_errors=True)
        job.parts.mkdir(parents=True)
    except OSError as error:
        raise InputFileError(f"cannot create the folder {job.parts} for finished parts: {error}") from error
    with atomic_output(record) as partial_file:
        partial_file.write_text(json.dumps(wanted))


def _sample(
    animator: Animator, job: Job, portrait: Portrait, points: Landmarks, driving: Driving, report: Report
) -> dict[int, np.ndarray]:
    """Writes one segment per chunk, then the state to go on from; returns the frames that the contact sheet shows."""
    progress = _load_progress(animator, job)
    windows = animator.plan(len(points))
    done = (
        0
        if progress is None
        else int(windows.starts[progress.window])
        if progress.window < windows.count
        else len(points)
    )
    report("animating", done, len(points))
    kept = dict(_load_kept(job))
    drawing = control_drawing(points, animator.system)
    for frames, after in animator.frames(portrait.image, drawing, len(points), seed=job.seed, start=progress):
        with VideoWriter(job.parts / f"segment_{done:08d}.mp4", driving.sequence.fps) as writer:
            for frame in frames:
                writer.write(frame)
        kept.update({i: frames[i - done] for i in driving.thumbnail_frames if done <= i < done + len(frames)})
        done += len(frames)
        _save_progress(job, after, kept)
        report("animating", done, len(points))
    return kept


def _save_progress(job: Job, progress: Progress, kept: dict[int, np.ndarray]) -> None:
    arrays: dict[str, Any] = {f"leaf_{i}": leaf for i, leaf in enumerate(jax.tree.leaves(progress.carry))}
    arrays |= {f"frame_{i}": frame for i, frame in kept.items()}
    arrays["window"] = progress.window
    with atomic_output(job.parts / "progress.npz") as partial_file:
        np.savez(partial_file, **arrays)


def _load_progress(animator: Animator, job: Job) -> Progress | None:
    path = job.parts / "progress.npz"
    if not path.exists():
        return None
    carry = init_carry(animator.solver, int(animator.settings["overlap"]), (1, *animator.system.latent_shape()))
    with np.load(path, allow_pickle=False) as stored:
        leaves = [stored[f"leaf_{i}"] for i in range(len(jax.tree.leaves(carry)))]
        return Progress(int(stored["window"]), jax.tree.unflatten(jax.tree.structure(carry), leaves))


def _load_kept(job: Job) -> dict[int, np.ndarray]:
    path = job.parts / "progress.npz"
    if not path.exists():
        return {}
    with np.load(path, allow_pickle=False) as stored:
        return {int(name.removeprefix("frame_")): stored[name] for name in stored.files if name.startswith("frame_")}


def _sheet(
    portrait: Portrait, driving: Driving, points: Landmarks, kept: dict[int, np.ndarray], animator: Animator
) -> np.ndarray:
    """Rows: driving, landmarks, result; the portrait stands first in each row's place."""
    shown = [(k, i) for k, i in enumerate(driving.thumbnail_frames) if i in kept]
    shown = [shown[j] for j in np.linspace(0, len(shown) - 1, min(SHEET_COLUMNS, len(shown))).astype(int)]
    landmarks: Video = control_drawing(points, animator.system)(np.array([i for _, i in shown]))
    blank = np.full_like(portrait.image, 235)
    rows = [
        [blank, *(driving.thumbnails[k] for k, _ in shown)],
        [blank, *landmarks],
        [portrait.image, *(kept[i] for _, i in shown)],
    ]
    labels = ["portrait", *(f"{i / driving.sequence.fps:.1f} s" for _, i in shown)]
    return contact_sheet(rows, ("driving", "landmarks", "result"), labels)
