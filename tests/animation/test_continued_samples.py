"""Every sample portrait speaks with every sample recording, from file to file: the pipeline as released, networks narrow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from portrait_jax.animation import Animator
from portrait_jax.animation.files import animate_files
from portrait_jax.animation.job import Job
from portrait_jax.media.audio import AudioClip, read_clip
from portrait_jax.media.image import read_image
from portrait_jax.media.video import probe, read_frames
from tests import tiny
from tests.animation import scene
from tests.systems.hallo3 import small

pytestmark = pytest.mark.slow

HEIGHT, WIDTH, SECONDS = 256, 384, 0.6
"""At which MediaPipe still sees the faces of whole portraits; of each recording's excerpt, which begins after a second."""


@pytest.fixture(scope="module")
def animator() -> Animator:
    system = small.make_system(height=HEIGHT, width=WIDTH)
    return Animator(system, tiny.make_params(system), steps=1, guidance=1.0)


@pytest.fixture(scope="module")
def recordings(samples_dir, tmp_path_factory) -> list[Path]:
    """An excerpt of each."""
    folder = tmp_path_factory.mktemp("speech")
    found = sorted((samples_dir / "speech").glob("*.wav"))
    assert found, "no sample speaks"
    for path in found:
        clip = read_clip(path)
        part = clip.samples[clip.rate : clip.rate + round(SECONDS * clip.rate)]
        scene.write_wav(folder / path.name, AudioClip(part, clip.rate))
    return [folder / path.name for path in found]


def test_portraits_and_speech_run_through(animator, recordings, samples_dir, face_landmarker_path, tmp_path):
    portraits = sorted(path for path in (samples_dir / "portraits").iterdir() if path.suffix in (".png", ".jpg"))
    assert portraits
    for portrait in portraits:
        picture = read_image(portrait)
        wide = picture.shape[1] > picture.shape[0]
        for speech in recordings:
            output = tmp_path / f"{portrait.stem}_{speech.stem}.mp4"
            animate_files(animator, Job(portrait, speech, output, landmarker=face_landmarker_path, face="largest"))
            info = probe(output)
            assert (info.height, info.width) == (HEIGHT, WIDTH if wide else HEIGHT)
            assert (info.frames, info.fps, info.has_audio) == (round(25 * SECONDS), 25, True)
            assert np.stack(list(read_frames(output))).std() > 1
