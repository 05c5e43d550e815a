"""Protects: clips that go on from each other are streamed to a file, exact by the clock, and resume as if never interrupted."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data import synthetic
from portrait_jax.animation import Animator
from portrait_jax.animation.continued import middle_of, windows_of
from portrait_jax.animation.drivers import driver_of
from portrait_jax.animation.files import animate_files
from portrait_jax.animation.portrait import Portrait
from portrait_jax.animation.signals import Clip, Signals
from portrait_jax.animation.sound import heard
from portrait_jax.encoders.wav2vec2 import interpolate
from portrait_jax.errors import ConfigError
from portrait_jax.face.masks import face_rectangle
from portrait_jax.media.audio import AudioClip
from portrait_jax.media.video import probe, read_frames
from portrait_jax.sharding.mesh import make_mesh
from tests import tiny
from tests.animation import scene
from tests.systems.hallo3 import small

SECONDS, FRAMES = 0.7, 18
"""Of the recording and the result, whose last frame shows after the sound's end: three clips of nine frames, two of them old."""


@pytest.fixture(scope="module")
def animator() -> Animator:
    system = small.make_system()
    return Animator(system, tiny.make_params(system), steps=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Inputs of a job: a portrait of a procedural person and a recording."""
    path = tmp_path_factory.mktemp("continued")
    scene.fill(path)
    wave = 0.4 * np.sin(2 * np.pi * 180 * np.arange(round(SECONDS * 48000)) / 48000)
    scene.write_wav(path / "speech.wav", AudioClip(np.repeat(wave[:, None], 2, axis=1).astype(np.float32), 48000))
    return path


def job(folder, output: str, **changes):
    return scene.job(folder, output, driving="speech.wav", **changes)


@pytest.fixture(scope="module")
def done(animator, folder):
    """The animation of the recording, with a prompt."""
    asked = job(folder, "out/result.mp4", prompts={"text": np.array([4, 7, 1], np.int32)})
    with pytest.MonkeyPatch.context() as patch:
        scene.install_detector(patch, folder)
        return SimpleNamespace(job=asked, record=animate_files(animator, asked))


def test_the_video_lasts_as_long_as_the_sound_at_the_systems_rate_and_is_square(done):
    info = probe(done.job.output)
    assert info.frames == done.record["frames"] == FRAMES and info.fps == 25 and info.has_audio
    frames = np.stack(list(read_frames(done.job.output)))
    assert frames.shape[1:] == (small.HEIGHT, small.HEIGHT, 3) and frames.std() > 1
    record = json.loads(done.job.record.read_text())
    assert record["sampling"]["strategy"] == "continued" and record["prompts"] == {"text": [4, 7, 1]}


class PowerFailureError(Exception):
    """Stands for a power failure."""


def test_an_interrupted_run_goes_on_with_the_next_clip_and_gives_the_same_frames(animator, folder, done, monkeypatch):
    scene.install_detector(monkeypatch, folder)
    calls = []

    def fail(what, number, total):
        calls.append((what, number))
        if (what, number) == ("animating", 14):
            raise PowerFailureError

    asked = job(folder, "again/result.mp4", prompts=done.job.prompts)
    with pytest.raises(PowerFailureError):
        animate_files(animator, asked, report=fail)
    after: list = []
    again = job(folder, "again/result.mp4", prompts=done.job.prompts, resume=True)
    animate_files(animator, again, report=lambda what, number, total: after.append((what, number)))
    assert ("animating", 7) in calls and [number for what, number in after if what == "animating"] == [14, 18]
    for one, other in zip(read_frames(asked.output), read_frames(done.job.output), strict=True):
        np.testing.assert_array_equal(one, other)


def signals_of(animator: Animator, frames: int) -> Signals:
    """Random speech features, and a face that is not told."""
    speech = animator.system.audio_encoder_config
    windows = np.random.default_rng(0).normal(size=(frames, 5, speech.layers, speech.hidden)).astype(np.float32)
    return Signals(lambda asked: {"audio": windows[asked]})


def test_how_many_clips_a_call_makes_does_not_show(animator):
    picture = np.asarray(small.portrait()[0, :, : small.HEIGHT])
    signals = signals_of(animator, FRAMES)
    videos = {}
    for size in (1, 2):
        each = Animator(animator.system, animator.params, steps=2, windows_per_chunk=size)
        chunks = [frames for frames, _ in each.frames(picture, signals, FRAMES)]
        assert [len(chunk) for chunk in chunks] == ([7, 7, 4] if size == 1 else [14, 4])
        videos[size] = np.concatenate(chunks).astype(int)
    assert np.abs(videos[1] - videos[2]).max() <= 1
    assert videos[1].std() > 1


def people(animator: Animator) -> tuple[list[np.ndarray], list[Signals]]:
    """Two portraits who hear the same."""
    pictures = [np.asarray(small.portrait(seed)[0, :, : small.HEIGHT]) for seed in (0, 1)]
    faces = np.random.default_rng(4).integers(0, 256, (2, small.FACE, small.FACE, 3), dtype=np.uint8)
    heard = signals_of(animator, FRAMES)
    return pictures, [replace(heard, still={"face": face}) for face in faces]


def test_each_of_several_portraits_has_the_video_that_it_has_alone_also_after_an_interruption(animator):
    made = Animator(animator.system, animator.params, steps=2, windows_per_chunk=1)
    pictures, signals = people(animator)
    chunks = list(made.videos(pictures, signals, FRAMES, seed=3))
    joined = np.concatenate([videos for videos, _ in chunks], axis=1).astype(int)
    for video, picture, told in zip(joined, pictures, signals, strict=True):
        alone = np.concatenate([frames for frames, _ in made.frames(picture, told, FRAMES, seed=3)])
        assert np.abs(video - alone).max() <= 1
    assert np.abs(joined[0] - joined[1]).mean() > 1
    rest = made.videos(pictures, signals, FRAMES, seed=3, start=chunks[0][1])
    np.testing.assert_array_equal(np.concatenate([videos for videos, _ in rest], axis=1), joined[:, 7:])


@pytest.mark.slow
def test_several_portraits_lie_over_a_mesh(animator):
    """Two portraits and two branches on four devices."""
    pictures, signals = people(animator)
    params = jax.device_get(animator.params)
    shared = Animator(animator.system, params, steps=2, windows_per_chunk=1, mesh=make_mesh(data=4))
    found, alone = (
        np.concatenate([videos for videos, _ in each.videos(pictures, signals, FRAMES)], axis=1).astype(int)
        for each in (shared, Animator(animator.system, params, steps=2, windows_per_chunk=1))
    )
    assert np.abs(found - alone).max() <= 1


def test_before_the_first_frame_nothing_sounds():
    signals = Signals(lambda frames: {"audio": 1.0 + np.asarray(frames, np.float32)[:, None, None, None]})
    louder = Signals(lambda frames: {"audio": 2 * signals.at(frames)["audio"]})
    windows = windows_of([signals, louder], np.array([[-1, -1, 0], [0, 1, 2]]))
    assert windows[:, 0, :, 0, 0, 0].tolist() == [[0, 0, 1], [1, 2, 3]]
    assert windows[:, 1, :, 0, 0, 0].tolist() == [[0, 0, 2], [2, 4, 6]]


def test_the_middle_of_a_picture_on_bars_is_shown():
    video = np.zeros((1, 2, 4, 7, 3), np.uint8)
    video[..., 1:5, :] = 9
    np.testing.assert_array_equal(middle_of(video, (4, 4)), np.full((1, 2, 4, 4, 3), 9))


def test_frames_hear_what_the_release_interpolates(animator):
    """Its features come from aligning the corners of 50 vectors a second with 25 frames a second."""
    system, frames = animator.system, 20
    count = system.audio_encoder_config.length(frames * 640)
    features = jnp.asarray(np.random.default_rng(1).normal(size=(1, count, 3)), jnp.float32)
    places = system.clock().places(np.arange(frames))
    np.testing.assert_allclose(places, 2 * np.arange(frames), atol=1e-5)
    np.testing.assert_allclose(interpolate(features, frames)[0], features[0, ::2], atol=1e-5)


def test_ten_minutes_of_sound_do_not_drift(animator):
    clock = animator.system.clock()
    assert clock.frames(600 * 16000) == 15000
    np.testing.assert_allclose(clock.places(np.array([14999])), [2 * 14999], rtol=1e-7)


def test_the_person_is_told_by_a_rectangle_and_an_aligned_face(animator):
    neutral = np.zeros(len(synthetic.EXPRESSION_NAMES), np.float32)
    pose = np.array([0, 0, 0, 0.5, 0.5, 0.5], np.float32)
    shown = synthetic.render(synthetic.sample_identity(3), pose, neutral, 64)
    portrait = Portrait(shown.image, shown.landmarks)
    speech = np.zeros((3, 2, 8), np.float32)
    signals = driver_of(animator.system).clip(
        animator.system, portrait, Clip(shown.landmarks[None], speech=speech), "none"
    )
    assert signals.still["face"].shape == (small.FACE, small.FACE, 3) and signals.still["face"].std() > 5
    mask = signals.still["face_mask"]
    x, y = shown.landmarks[:, 0].astype(int), shown.landmarks[:, 1].astype(int)
    assert mask[np.clip(y, 0, 63), np.clip(x, 0, 63)].mean() > 0.95 and 0.1 < mask.mean() < 0.7
    assert mask.sum() > face_rectangle(shown.landmarks, 64, 64).sum()


def test_what_means_nothing_to_the_system_is_named(animator, folder, monkeypatch):
    scene.install_detector(monkeypatch, folder)
    for changes in ({"prompts": {"negative_text": np.array([1, 0, 0])}}, {"control": folder / "driving.npz"}):
        with pytest.raises(ConfigError, match="means nothing to hallo3"):
            animate_files(animator, job(folder, "wrong/result.mp4", **changes))
    system = small.make_system("stage1")
    with pytest.raises(ConfigError, match="hears nothing with this config"):
        heard(system, {}, folder / "speech.wav", system.clock(), folder / "nothing")
    with pytest.raises(ConfigError, match="which follow_your_emoji does not; choose another one"):
        other = tiny.make_system()
        made = Animator(other, {})
        made.settings["strategy"] = "continued"
        made.blank(made.plan(8))


def test_guidance_and_steps_of_the_animator_are_the_ones_in_force(animator):
    picture, signals = np.asarray(small.portrait()[0, :, : small.HEIGHT]), signals_of(animator, 7)
    videos = [
        np.concatenate([f for f, _ in Animator(animator.system, animator.params, **chosen).frames(picture, signals, 7)])
        for chosen in ({"steps": 2}, {"steps": 2, "guidance": 1.0}, {"steps": 3})
    ]
    assert all(video.shape == (7, small.HEIGHT, small.HEIGHT, 3) for video in videos)
    assert (videos[0] != videos[1]).any() and (videos[0] != videos[2]).any()
