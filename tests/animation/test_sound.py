"""Protects: a recording drives a portrait from file to file, with prompts and pose controls beside it, and is heard once."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

from portrait_jax.animation import Animator, sound
from portrait_jax.animation.files import animate_files
from portrait_jax.animation.job import Job
from portrait_jax.animation.portrait import Portrait
from portrait_jax.animation.signals import Clip
from portrait_jax.encoders.speech import Clock
from portrait_jax.errors import AudioError, ConfigError
from portrait_jax.face.alignment import LandmarkSequence, save_landmarks
from portrait_jax.face.detector import FaceDetector
from portrait_jax.interchange import export_checkpoint
from portrait_jax.media.audio import AudioClip, read_clip
from portrait_jax.media.image import read_image
from portrait_jax.media.video import probe, read_frames
from portrait_jax.systems.loading import load_system_params, pose_control
from portrait_jax.training.params import save_params
from portrait_jax.training.state import flatten, matches, unflatten
from tests import tiny_anyexpress
from tests.animation import scene
from tests.systems.hallo3 import small
from tests.tiny import make_params

SECONDS, FPS = 0.52, 20.0
"""Of the recording and the result: eleven frames, the last one of which shows after the sound's end."""
ALONE = {"id_scale": 0.0, "portrait_latents": False}
"""The prompt alone says who speaks."""
OF_BASE = ("denoiser/(?!.*(audio_attention|motion_modules|processor|place_embedding))", "(text_encoder|autoencoder)/")
"""Leaves that a personalised model holds."""


def write_voice(folder, seconds: float = SECONDS) -> None:
    rate = 48000
    wave = 0.4 * np.sin(2 * np.pi * 180 * np.arange(round(seconds * rate)) / rate)
    scene.write_wav(folder / "speech.wav", AudioClip(np.repeat(wave[:, None], 2, axis=1).astype(np.float32), rate))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """One animation with everything at once: portrait, sound, two prompts, and key points through a T2I-Adapter."""
    folder = tmp_path_factory.mktemp("sound")
    scene.fill(folder)
    write_voice(folder)
    system = tiny_anyexpress.make_system(control="t2i_adapter", control_scale=0.8, id_scale=0.7)
    prompts = {"text": np.array([6, 1, 7], np.int32), "negative_text": np.array([6, 2, 7], np.int32)}
    job = scene.job(folder, driving="speech.wav", control=folder / "driving.npz", prompts=prompts, fps=FPS)
    with pytest.MonkeyPatch.context() as patch:
        scene.install_detector(patch, folder)
        record = animate_files(Animator(system, make_params(system)), job)
    return SimpleNamespace(folder=folder, job=job, record=record, system=system)


def test_the_video_lasts_as_long_as_the_sound_and_has_it(done):
    info = probe(done.job.output)
    assert info.frames == done.record["frames"] == 11 and info.fps == FPS and info.has_audio
    heard = read_clip(done.job.output, channels=1)
    assert heard.duration == pytest.approx(SECONDS, abs=0.06)
    frames = np.stack(list(read_frames(done.job.output)))
    assert frames.shape[1:] == (32, 32, 3) and frames.std() > 1
    assert not done.job.parts.exists()


def test_all_that_the_frames_depend_on_is_recorded(done):
    record = json.loads(done.job.record.read_text())
    assert set(record["inputs"]) == {"portrait", "portrait_landmarks", "driving", "control"}
    assert record["prompts"] == {"text": [6, 1, 7], "negative_text": [6, 2, 7]}
    assert record["sampling"]["strategy"] == "prefix" and record["sampling"]["mimic"] == 1.5
    assert record["audio"].endswith("speech.wav")


def test_a_sound_is_heard_once_and_then_read_from_the_disk(tmp_path, monkeypatch):
    write_voice(tmp_path)
    system, calls = tiny_anyexpress.make_system(), []

    def stub(system, params):
        def run(samples, places):
            calls.append(samples.shape)
            return np.arange(len(places) * 3, dtype=np.float32).reshape(1, -1, 3, 1)

        return run

    monkeypatch.setattr(sound, "encoder", stub)
    first = np.array(sound.heard(system, {}, tmp_path / "speech.wav", system.clock(), tmp_path / "cache"))
    again = sound.heard(system, {}, tmp_path / "speech.wav", system.clock(), tmp_path / "cache")
    assert len(calls) == 1 and first.shape == (13, 2, 1) and isinstance(again, np.memmap)
    np.testing.assert_array_equal(first, again)
    windows = sound.sound_signals(again, 1).batch(np.array([0, 12, 5]))["audio"]
    assert windows.shape == (1, 3, 3, 2, 1)
    np.testing.assert_array_equal(windows[0, 2], first[4:7])
    np.testing.assert_array_equal(windows[0, 1, 2], first[12])


def test_what_cannot_be_heard_is_named_before_anything_is_kept(tmp_path):
    scene.fill(tmp_path)
    quiet = AudioClip(np.zeros((48000, 2), np.float32), 48000)
    scene.write_wav(tmp_path / "quiet.wav", quiet)
    system = tiny_anyexpress.make_system()
    for name, message in (("quiet.wav", "silent"), ("silent.mp4", "no audio stream")):
        with pytest.raises(AudioError, match=message):
            sound.heard(system, {}, tmp_path / name, Clock(25.0, system.speech_config), tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*"))


def test_a_clip_in_memory_needs_its_speech_features():
    system = tiny_anyexpress.make_system()
    landmarks, picture = np.zeros((3, 478, 3), np.float32), np.zeros((32, 32, 3), np.uint8)
    portrait = Portrait(picture, landmarks[0])
    with pytest.raises(ConfigError, match="driven by sound; give the clip's speech features"):
        sound.clip_signals(system, portrait, Clip(landmarks), "none")
    speech = np.zeros((3, 2, 8), np.float32)
    assert (
        sound.clip_signals(system, portrait, Clip(landmarks, speech=speech), "none").at(np.arange(2))["audio"].shape[0]
        == 2
    )


def published(folder):
    """A trained adapter's file; beside it a personalised model in one file and a ControlNet, both under published names."""
    whole = make_params(tiny_anyexpress.make_system(control="controlnet", **ALONE))
    held = {name: leaf for name, leaf in flatten(whole).items() if not name.startswith("controlnet/")}
    adapter = {name: leaf for name, leaf in held.items() if not matches(name, OF_BASE)}
    save_params(folder / "whole.safetensors", whole, {})
    save_params(folder / "adapter.safetensors", unflatten(adapter), {})
    bases = [folder / "toon.safetensors", folder / "controlnet.safetensors"]
    for layout, file in zip(("sd15_single_file", "controlnet_sd15"), bases):
        export_checkpoint([layout], folder / "whole.safetensors", file)
    return folder / "adapter.safetensors", bases


def test_a_prompt_alone_speaks_on_another_base_under_a_controlnet(tmp_path):
    """Adapter, personalised model and ControlNet are three files; no portrait; sound, both prompts and key points at once."""
    scene.fill(tmp_path)
    write_voice(tmp_path)
    adapter, bases = published(tmp_path)
    system = tiny_anyexpress.make_system(control=pose_control(bases), **ALONE)
    assert system.behaviour.control == "controlnet"
    params = load_system_params(system, adapter, bases)
    prompts = {"text": np.array([6, 1, 7], np.int32), "negative_text": np.array([6, 2, 7], np.int32)}
    job = scene.job(tmp_path, driving="speech.wav", control=tmp_path / "driving.npz", prompts=prompts, fps=FPS)
    job = dataclasses.replace(job, portrait=None, portrait_landmarks=None)
    record = animate_files(Animator(system, params), job)
    assert set(record["inputs"]) == {"driving", "control"} and probe(job.output).frames == 11


def test_a_system_that_is_told_who_it_is_by_a_picture_asks_for_one(tmp_path):
    write_voice(tmp_path)
    system = tiny_anyexpress.make_system()
    job = Job(None, tmp_path / "speech.wav", tmp_path / "out.mp4")
    with pytest.raises(ConfigError, match="--portrait is missing: anyexpress"):
        animate_files(Animator(system, {}), job)
    assert not list(tmp_path.glob("out*"))


@pytest.mark.slow
@pytest.mark.parametrize("tiny", [tiny_anyexpress, small], ids=["anyexpress", "hallo3"])
def test_sample_speech_drives_sample_portraits(samples_dir, face_landmarker_path, tmp_path, tiny):
    """Every portrait with every recording's beginning, from file to file; networks narrow, the pipeline whole."""
    system = tiny.make_system()
    animator = Animator(system, make_params(system))
    speech = sorted((samples_dir / "speech").glob("*.wav"))
    portraits = sorted(path for path in (samples_dir / "portraits").iterdir() if path.suffix in (".png", ".jpg"))
    assert speech and portraits
    faces = tmp_path / "faces"
    for portrait in portraits:  # found in the picture as it is: the tiny systems' own are too small to see a face in
        image = read_image(portrait)
        with FaceDetector(face_landmarker_path, "largest") as detector:
            points = detector.detect(image).landmarks_px
        save_landmarks(
            faces / f"{portrait.stem}.npz", LandmarkSequence(1.0, image.shape[1], image.shape[0], points[None])
        )
    for recording in speech:
        clip = read_clip(recording)
        part = clip.samples[clip.rate : clip.rate + round(0.6 * clip.rate)]
        scene.write_wav(tmp_path / recording.name, AudioClip(part, clip.rate))
        for portrait in portraits:
            output = tmp_path / f"{portrait.stem}_{recording.stem}.mp4"
            driving = tmp_path / recording.name
            animate_files(animator, Job(portrait, driving, output, portrait_landmarks=faces / f"{portrait.stem}.npz"))
            info = probe(output)
            assert (info.frames, info.fps, info.has_audio) == (15, 25, True)
            assert np.stack(list(read_frames(output))).std() > 1
