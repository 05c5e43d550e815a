"""A folder of small inputs for animations: a portrait, drivers with and without sound, and a detector that knows both."""

from __future__ import annotations

import wave
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from data import synthetic
from portrait_jax.animation import files
from portrait_jax.animation.job import Job
from portrait_jax.face.alignment import LandmarkSequence, save_landmarks
from portrait_jax.face.detector import Detection, FaceDetector
from portrait_jax.media.audio import AudioClip
from portrait_jax.media.image import write_image
from portrait_jax.media.mux import concat_segments
from portrait_jax.media.video import VideoWriter

SIZE, FRAMES, CLICK = 64, 11, 0.2
"""Pixels of all pictures, frames of the drivers, and seconds until the sound clicks."""
NTSC = 30000 / 1001


def make_clip(frames: int = FRAMES) -> dict[str, np.ndarray]:
    """A performance of a procedural person."""
    performance = synthetic.sample_performance(3, frames)
    return synthetic.render_clip(synthetic.sample_identity(2), performance, SIZE)


def fill(folder: Path) -> dict[str, np.ndarray]:
    """Writes `portrait.png`, `portrait.npz`, `driving.npz`, `driving.mp4` (NTSC rate, with sound), `silent.mp4`,
    `voice.wav` (two seconds), and `face.task`, which stands for a face model (see `install_detector`)."""
    clip = make_clip()
    (folder / "face.task").write_bytes(b"a face model")
    write_image(folder / "portrait.png", clip["frames"][0])
    write_wav(folder / "voice.wav", click(seconds=2.0))
    save_landmarks(folder / "portrait.npz", LandmarkSequence(1.0, SIZE, SIZE, clip["landmarks"][:1]))
    save_landmarks(folder / "driving.npz", LandmarkSequence(25.0, SIZE, SIZE, clip["landmarks"]))
    with VideoWriter(folder / "silent.mp4", NTSC) as writer:
        for frame in clip["frames"]:
            writer.write(frame)
    concat_segments([folder / "silent.mp4"], folder / "driving.mp4", click(seconds=2.0), fps=NTSC)
    return clip


def click(seconds: float, rate: int = 48000) -> AudioClip:
    """Silence with a click after `CLICK` seconds."""
    samples = np.zeros((round(seconds * rate), 2), np.float32)
    samples[round(CLICK * rate) : round((CLICK + 0.01) * rate)] = 0.9
    return AudioClip(samples, rate)


def write_wav(path: Path, clip: AudioClip) -> None:
    """Writes samples as 16-bit PCM."""
    with wave.open(str(path), "wb") as file:
        file.setparams((clip.samples.shape[1], 2, clip.rate, 0, "NONE", ""))
        file.writeframes((clip.samples * 32767).astype("<i2").tobytes())


def job(folder: Path, output: str = "out/result.mp4", **changes) -> Job:
    """Animates `portrait.png` by `driving.npz`; relative names lie in `folder`."""
    settings = {"portrait": "portrait.png", "portrait_landmarks": "portrait.npz", "driving": "driving.npz", **changes}
    inputs = ("portrait", "portrait_landmarks", "driving", "audio", "landmarker")
    placed = {name: folder / value if name in inputs and value else value for name, value in settings.items()}
    return Job(output=folder / output, **placed)


def fake_detector(clip: dict[str, np.ndarray], error: Exception | None = None) -> type[FaceDetector]:
    """A detector that knows the landmarks of `clip` by frame number, or raises `error` where a video ends."""

    class Known(FaceDetector):
        def __init__(self, path: object = None, face: str | int = "only"):
            self._landmarker, self._face = None, face

        def detect(self, image, source="the image", frame=None):
            landmarks = clip["landmarks"][min(frame or 0, len(clip["landmarks"]) - 1)].copy()
            return Detection(landmarks, np.zeros(52, np.float32), np.eye(4, dtype=np.float32))

        def detect_video(self, frames: Iterable[np.ndarray], source="the video", max_gap=12):
            found = super().detect_video(frames, source, max_gap)
            if error is not None:
                raise error
            return found

    return Known


def install_detector(
    monkeypatch: pytest.MonkeyPatch, folder: Path, clip: dict[str, np.ndarray] | None = None, error=None
) -> None:
    """Lets `animate_files` find faces by `fake_detector`, whose model is `face.task` in `folder` unless a job says."""
    monkeypatch.setattr(files, "FaceDetector", fake_detector(make_clip() if clip is None else clip, error))
    monkeypatch.setattr(files, "model_path", lambda path=None: path or folder / "face.task")
