"""The embedded model driven by real people: does the result open its mouth and turn its head when the driver does?

The judge is the probe, which sees the result's frames alone. The controls: the same driver with its frames in another order, and
the other drivers, whom the result must not follow.
"""

from __future__ import annotations

from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest

from configs import follow_your_emoji
from data import synthetic
from portrait_jax.animation import Animator
from portrait_jax.animation.files import animate_files
from portrait_jax.animation.job import Job
from portrait_jax.face.alignment import LandmarkSequence, save_landmarks
from portrait_jax.face.detector import FaceDetector
from portrait_jax.media.image import read_image, write_image
from portrait_jax.media.video import VideoWriter, probe, read_frames, read_video
from portrait_jax.metrics.detector import Detector
from portrait_jax.metrics.following import MEASURES, correlation, following
from portrait_jax.systems.follow_your_emoji import FollowYourEmoji
from portrait_jax.systems.loading import load_system_params

pytestmark = pytest.mark.usefixtures("optimised")

FPS, FRAMES = 12.5, 25
EXCERPTS = {
    "clip_d3.mp4": (112, ("mouth", "yaw")),
    "clip_d6.mp4": (16, ("mouth", "yaw")),
    "clip_d9.mp4": (80, ("yaw",)),
    "clip_d11.mp4": (48, ("mouth", "yaw")),
    "expressions_25fps.mp4": (72, ("mouth",)),
}
"""Of each sample with motion, the two seconds with the most (product of both measures' deviations): the first frame at `FPS`,
and what moves. The heads move by 0.38, 0.08, 0.20, 0.42 and 0.03 of their width."""
LEAST = {"mouth": 0.65, "yaw": 0.85}
"""Mean correlations that the model must reach."""
PERSON = 500


@pytest.fixture(scope="module")
def animator() -> Animator:
    system = FollowYourEmoji.from_config(follow_your_emoji.get_config("demo"))
    return Animator(system, load_system_params(system), windows_per_chunk=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, samples_dir):
    """The excerpts as videos of their own, and the portrait of an unseen procedural person."""
    path = tmp_path_factory.mktemp("real")
    for clip, (start, _) in EXCERPTS.items():
        with VideoWriter(path / clip, FPS) as writer:
            for frame in islice(read_frames(samples_dir / "driving" / clip, FPS), start, start + FRAMES):
                writer.write(frame)
    pose = np.array([0, 0, 0, 0.5, 0.47, 0.45], np.float32)
    person = synthetic.sample_identity(synthetic.split_seed("test", PERSON))
    portrait = synthetic.render(person, pose, np.zeros(len(synthetic.EXPRESSION_NAMES), np.float32), 128)
    write_image(path / "portrait.png", portrait.image)
    save_landmarks(path / "portrait.npz", LandmarkSequence(1.0, 128, 128, portrait.landmarks[None]))
    return path


@pytest.fixture(scope="module")
def results(animator, folder, face_landmarker_path):
    """By excerpt: driving landmarks, the result's frames and what the probe sees in them."""
    judge, found = Detector.load(), {}
    for clip in EXCERPTS:
        job = Job(
            portrait=folder / "portrait.png",
            portrait_landmarks=folder / "portrait.npz",
            driving=folder / clip,
            output=folder / f"result_{clip}",
            landmarker=face_landmarker_path,
        )
        record = animate_files(animator, job)
        with FaceDetector(face_landmarker_path) as detector:
            driving = detector.detect_video(read_frames(folder / clip)).landmarks_px
        video = read_video(job.output)
        seen = judge.detect(video).landmarks_px
        found[clip] = SimpleNamespace(record=record, driving=driving, video=video, seen=seen, job=job)
    return found


def with_motion(name: str) -> list[str]:
    """Excerpts in which a measure moves."""
    return [clip for clip, (_, moves) in EXCERPTS.items() if name in moves]


@pytest.mark.parametrize("name", sorted(LEAST))
def test_the_excerpts_have_motion_to_follow(results, name):
    assert all(MEASURES[name](results[clip].driving).std() > 0.035 for clip in with_motion(name))


@pytest.mark.parametrize("name", sorted(LEAST))
def test_a_procedural_portrait_follows_real_people(results, name):
    found = {clip: following(results[clip].driving, results[clip].seen)[name] for clip in with_motion(name)}
    assert np.mean([one.correlation for one in found.values()]) > LEAST[name], found
    assert np.mean([one.correlation for one in found.values()]) > np.mean([one.chance for one in found.values()]), found


@pytest.mark.parametrize("name", sorted(LEAST))
def test_other_drivers_and_other_orders_are_not_followed(results, name):
    """The controls: what the test above measures comes from this driver, frame by frame."""
    clips, measure = with_motion(name), MEASURES[name]
    driving = {clip: measure(results[clip].driving) for clip in clips}
    seen = {clip: measure(results[clip].seen) for clip in clips}
    own = np.mean([correlation(driving[clip], seen[clip]) for clip in clips])
    others = np.mean([correlation(driving[other], seen[clip]) for clip in clips for other in clips if other != clip])
    backwards = np.mean([correlation(driving[clip][::-1], seen[clip]) for clip in clips])
    assert own > others + 0.4 and own > backwards + 0.4, (own, others, backwards)


def test_the_results_have_the_drivers_length_and_rate_and_stay_the_portraits_person(results):
    judge = Detector.load()
    for result in results.values():
        info = probe(result.job.output)
        assert (info.frames, info.fps) == (FRAMES, FPS) == (result.record["frames"], result.record["fps"])
        portrait = judge.detect(read_image(result.job.portrait)[None]).attributes[0]
        person = judge.detect(result.video).attributes.mean(axis=0)
        assert portrait @ person / (np.linalg.norm(portrait) * np.linalg.norm(person)) > 0.6


@pytest.mark.parametrize("portrait", ["girl_campfire.jpg", "older_man_beach.jpg", "frontal.png"])
def test_real_portraits_are_animated_from_file_to_file(
    animator, folder, samples_dir, face_landmarker_path, tmp_path, portrait
):
    short = tmp_path / "driving.mp4"
    with VideoWriter(short, FPS) as writer:
        for frame in islice(read_frames(folder / "clip_d6.mp4"), 5):
            writer.write(frame)
    output = tmp_path / "result.mp4"
    job = Job(samples_dir / "portraits" / portrait, short, output, landmarker=face_landmarker_path)
    animate_files(animator, job)
    info = probe(output)
    assert (info.width, info.height, info.frames, info.fps) == (128, 128, 5, FPS)
    assert read_video(output).std() > 10
    assert read_image(job.sheet).std() > 10 and not job.parts.exists()
