"""Protects: of all that an animation reads and writes, only the driver's landmarks stay in memory for the whole length."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, replace

import jax
import numpy as np
import pytest

from portrait_jax.animation import Animator, Position, pieces
from portrait_jax.animation.files import animate_files
from portrait_jax.face.alignment import LandmarkSequence, save_landmarks
from portrait_jax.long_video.overlap import init_carry
from portrait_jax.media.audio import AudioClip
from portrait_jax.media.mux import concat_segments
from portrait_jax.media.video import VideoWriter
from tests import tiny, tiny_xnemo
from tests.animation import scene
from tests.face.faces import canonical, write_bundle

LANDMARKS = 478 * 3 * 4
"""Bytes of one frame's landmarks."""
SHORT, LONG, RATE = 16, 528, 30.0
"""Frames of the two videos, and their rate; their sound takes 12.8 kB per frame in memory."""
LEAST, MOST = (
    0.9 * LANDMARKS,
    {"stored landmarks": 6_300, "on the metric mesh": 6_300, "video with sound": 9_500, "faces": 9_500},
)
"""Bytes per frame; while faces are found in a video, its landmarks lie in an array that grows by halves.
Face crops stay on the disk."""


@dataclass(frozen=True)
class Copier(Animator):
    """Gives the drawings as the result: of all that an animation does, the network alone is left out."""

    def videos(self, portraits, signals, count, *, seed=0, start=None) -> Iterator[tuple[np.ndarray, Position]]:
        windows, size = self.plan(count), int(self.settings["windows_per_chunk"])
        carry = init_carry(self.solver, windows.overlap, (1, *self.system.latent_shape()))
        for first in windows.chunks(size):
            kept = int(windows.emitted[first : first + size].sum())
            (pictures,) = signals[0].at(windows.source_frames(first, size)).values()
            side = self.system.image_size
            yield pictures[None, :kept, :side, :side].copy(), Position(first + size, carry)


def drive(folder, clip, frames: int) -> None:
    """Writes `long.npz`, and `long.mp4` with stereo sound."""
    still = np.repeat(clip["landmarks"][:1], frames, axis=0)
    save_landmarks(folder / "long.npz", LandmarkSequence(RATE, scene.SIZE, scene.SIZE, still))
    with VideoWriter(folder / "pictures.mp4", RATE) as writer:
        for _ in range(frames):
            writer.write(clip["frames"][0])
    sound = np.full((round(frames / RATE * 48000), 2), 0.3, np.float32)
    concat_segments([folder / "pictures.mp4"], folder / "long.mp4", AudioClip(sound, 48000), RATE)


def peak(folder, alignment: str, **inputs) -> int:
    """Bytes that Python and numpy hold at most while a video is made, in chunks of as many frames as the short one has."""
    # Crops of 64 pixels would show: one frame's are 12 kB.
    system = tiny_xnemo.make_system(64) if alignment == "in_place" else tiny.make_system()
    system = replace(system, sampling=replace(system.sampling, alignment=alignment))
    animator = Copier(system, {}, windows_per_chunk=SHORT // 2)
    jax.block_until_ready(init_carry(animator.solver, 2, (1, *animator.system.latent_shape())))  # Fills jax's caches.
    tracemalloc.start()
    try:
        animate_files(animator, scene.job(folder, **inputs))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", MOST)
def test_memory_grows_by_the_drivers_landmarks_alone(tmp_path, monkeypatch, kind):
    clip = scene.fill(tmp_path)
    scene.install_detector(monkeypatch, tmp_path, clip)
    monkeypatch.setattr(pieces, "PIECE", 4)  # As many pieces of the short video are held as of the long one.
    from_video = kind in ("video with sound", "faces")
    inputs = {"driving": "long.mp4"} if from_video else {"driving": "long.npz", "audio": "long.mp4"}
    alignment = {"on the metric mesh": "metric", "faces": "in_place"}.get(kind, "proportional")
    inputs["landmarker"] = write_bundle(tmp_path / "face.task", canonical()).name
    peaks = {}
    for frames in (SHORT, LONG):
        drive(tmp_path, clip, frames)
        peaks[frames] = peak(tmp_path, alignment, **inputs)
    grown = (peaks[LONG] - peaks[SHORT]) / (LONG - SHORT)
    print(f"{kind}: {grown:.0f} bytes per frame")
    assert LEAST < grown < MOST[kind]
