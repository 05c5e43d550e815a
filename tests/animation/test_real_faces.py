"""Real people drive by their faces: crops that hold the face, from file to file. The networks are tiny and random."""

from __future__ import annotations

import functools
from itertools import islice

import numpy as np
import pytest

from portrait_jax.animation import Animator, load_portrait
from portrait_jax.animation.faces import reference_face
from portrait_jax.animation.files import animate_files
from portrait_jax.animation.job import Job
from portrait_jax.errors import NoFaceError
from portrait_jax.face.boxes import centre, detector_box, sides
from portrait_jax.face.detector import FaceDetector
from portrait_jax.media.image import read_image
from portrait_jax.media.video import VideoWriter, probe, read_frames, read_video
from portrait_jax.metrics.bench import detector_judge
from tests import tiny, tiny_hunyuan, tiny_xnemo

PORTRAITS = ("frontal.png", "girl_campfire.jpg", "older_man_beach.jpg")
FACE = 224
"""The published side of face crops."""


SYSTEMS = {"follow_your_emoji": tiny, "hunyuan_portrait": tiny_hunyuan, "xnemo": tiny_xnemo}
"""What faces drive."""


@functools.cache
def animator_of(name: str) -> Animator:
    system = SYSTEMS[name].make_system()
    return Animator(system, tiny.make_params(system))


def animate(animator, portrait, driving, output, face_landmarker_path, **changes) -> Job:
    job = Job(portrait, driving, output, landmarker=face_landmarker_path, **changes)
    record = animate_files(animator, job)
    info = probe(output)
    assert (info.width, info.frames) == (animator.system.image_size, record["frames"])
    assert info.has_audio == probe(driving).has_audio and info.fps == pytest.approx(record["fps"])
    assert read_image(job.sheet).std() > 10 and not job.parts.exists()
    return job


def test_a_real_portrait_follows_a_real_driver_from_file_to_file(samples_dir, face_landmarker_path, tmp_path):
    short = tmp_path / "driving.mp4"
    with VideoWriter(short, 12.5) as writer:
        for frame in islice(read_frames(samples_dir / "driving" / "clip_d6.mp4", 12.5), 16, 21):
            writer.write(frame)
    portrait = samples_dir / "portraits" / PORTRAITS[0]
    job = animate(animator_of("xnemo"), portrait, short, tmp_path / "out.mp4", face_landmarker_path)
    assert len(read_video(job.output)) == 5


@pytest.mark.parametrize("name", PORTRAITS)
def test_the_release_frames_portraits_by_twice_the_faces_box(samples_dir, face_landmarker_path, name):
    with FaceDetector(face_landmarker_path) as detector:
        portrait = load_portrait(samples_dir / "portraits" / name, 256, detector=detector, framing="box")
        again = detector.detect(portrait.image).landmarks_px
        face = reference_face(portrait, FACE)
        seen = detector.detect(face).landmarks_px
    box = detector_box(portrait.landmarks)
    assert max(sides(box)) / 256 == pytest.approx(0.5, abs=0.03)
    # The landmarks were moved with the picture.
    assert np.abs(again - portrait.landmarks)[:, :2].mean() < 0.02 * max(sides(box))
    whole = detector_box(seen)
    assert face.shape == (FACE, FACE, 3) and max(sides(whole)) / FACE == pytest.approx(1 / 1.1, abs=0.08)
    assert np.abs(centre(whole) / FACE - 0.5).max() < 0.08


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("number", range(9))
def test_every_driver_of_the_samples_moves_one_of_their_portraits(
    samples_dir, face_landmarker_path, tmp_path, number, name
):
    driving = sorted((samples_dir / "driving").iterdir())[number]
    portrait = samples_dir / "portraits" / PORTRAITS[number % 3]

    def run() -> None:
        given = portrait, driving, tmp_path / "out.mp4", face_landmarker_path
        animate(animator_of(name), *given, fps=12.5, face="largest")

    with FaceDetector(face_landmarker_path) as detector:
        seen = detector_judge(detector)(np.stack(list(islice(read_frames(driving, 2.0), 16))))
    if np.isnan(seen).all():
        with pytest.raises(NoFaceError, match=driving.name):
            run()
    else:
        run()
