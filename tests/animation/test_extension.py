"""Protects: after the driver's end the prior goes on, from the driver's last motion, and nothing before it changes."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest

from configs import motion_prior
from launch.priors import load_extension
from portrait_jax.animation import Animator, Signals, extension
from portrait_jax.animation.extension import Extension, encode_drive, extended, follow
from portrait_jax.animation.files import animate_files
from portrait_jax.animation.signals import Drive
from portrait_jax.errors import CheckpointError, ConfigError, InputFileError
from portrait_jax.media.video import probe, read_video
from portrait_jax.motion.prior_task import MotionPriorTask
from portrait_jax.training.params import save_params
from tests import tiny, tiny_xnemo
from tests.animation import scene

FRAMES = 11
"""One batch of the encoder is larger."""


def prior_config(width: int = tiny_xnemo.WIDTH, emotions: int = 2):
    config = motion_prior.get_config("gpt_demo")
    config.model.vqvae.update({"motion": width, "width": 8, "codes": 8, "code_dim": 3})
    config.model.prior.update({"positions": 12, "hidden": 16, "layers": 1, "heads": 2, "emotions": emotions})
    config.train.update({"frames": 32})
    return config


@pytest.fixture(scope="module")
def prior() -> Extension:
    task = MotionPriorTask.from_config(prior_config())
    return Extension(0.4, task, tiny.make_params(task))


@pytest.fixture(scope="module")
def animator() -> Animator:
    system = tiny_xnemo.make_system()
    return Animator(system, tiny.make_params(system))


def drive_of(arrays: dict[str, np.ndarray], fps: float = 25.0, rows=None) -> Drive:
    count = len(next(iter(arrays.values())))
    signals = Signals(lambda frames: {name: array[frames] for name, array in arrays.items()}, {"own": np.ones(2)})
    return Drive(signals, count, fps, [0, count - 1], rows or {})


@pytest.fixture(scope="module")
def faces() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (FRAMES, 16, 16, 3), dtype=np.uint8)


def test_the_driver_stays_and_the_priors_motion_follows(animator, prior, faces):
    drive = drive_of({"faces": faces})
    longer = extended(drive, animator.system, animator.params, prior, seed=3)
    assert (longer.count, longer.fps) == (FRAMES + 10, 25.0), "0.4 seconds are ten frames"
    motion = longer.signals.at(np.arange(longer.count))["motion"]
    given = encode_drive(drive, animator.system, animator.params)
    np.testing.assert_array_equal(motion[:FRAMES], given)
    np.testing.assert_array_equal(motion[FRAMES:], follow(prior, given, 10, 3))
    assert np.abs(motion[FRAMES:] - follow(prior, given, 10, 4)).max() > 1e-3, "the seed has no effect"
    assert np.abs(motion[FRAMES:] - follow(prior, given[::-1].copy(), 10, 3)).max() > 1e-3, "the driver has no effect"
    np.testing.assert_array_equal(longer.signals.still["own"], np.ones(2))


def test_latents_are_those_of_each_frames_face_however_many_there_are(animator, faces):
    many = np.concatenate([faces, faces[::-1]])
    found = encode_drive(drive_of({"faces": many}), animator.system, animator.params)
    assert found.shape == (2 * FRAMES, tiny_xnemo.WIDTH)
    np.testing.assert_allclose(found[FRAMES:], found[:FRAMES][::-1], atol=1e-5)
    np.testing.assert_array_equal(encode_drive(drive_of({"motion": found}), animator.system, {}), found)


def test_the_emotion_and_how_codes_are_drawn_reach_the_prior(prior, monkeypatch):
    """What they do there is tested beside the prior."""
    asked = {}

    def extend(self, params, motion, frames, rng, **options):
        asked.update(options, frames=frames, given=motion.shape)
        return motion[:, :frames]

    monkeypatch.setattr(MotionPriorTask, "extend", extend)
    chosen = dataclasses.replace(prior, emotion=1, temperature=0.7, top_p=0.5)
    follow(chosen, np.zeros((FRAMES, tiny_xnemo.WIDTH), np.float32), 7, 0)
    assert asked == {
        "emotion": 1, "temperature": 0.7, "top_p": 0.5, "frames": 7, "given": (1, FRAMES, tiny_xnemo.WIDTH),
    }  # fmt: skip


def test_the_last_position_stays_and_the_sheet_shows_what_follows(prior):
    motion = np.zeros((FRAMES, tiny_xnemo.WIDTH), np.float32)
    boxes = np.arange(3 * FRAMES, dtype=np.float32).reshape(FRAMES, 3)
    rows = {"driving": lambda frames: [np.full((4, 4, 3), number, np.uint8) for number in frames]}
    longer = extended(drive_of({"motion": motion, "boxes": boxes}, rows=rows), tiny_xnemo.make_system(), {}, prior)
    found = longer.signals.at(np.array([3, FRAMES, FRAMES + 5]))
    np.testing.assert_array_equal(found["boxes"], boxes[[3, -1, -1]])
    assert longer.shown[:2] == [0, FRAMES - 1] and longer.shown[-1] == longer.count - 1
    shown = longer.rows["driving"](longer.shown)
    assert len(shown) == len(longer.shown) and shown[1].max() == FRAMES - 1 and shown[2].min() == 235


def test_a_run_that_goes_on_finds_the_same_motion(animator, prior, faces, tmp_path, monkeypatch):
    drive = drive_of({"faces": faces})
    first = extended(drive, animator.system, animator.params, prior, cache=tmp_path)
    monkeypatch.setattr(extension, "encode_drive", lambda *_: pytest.fail("encoded again"))
    again = extended(drive, animator.system, animator.params, prior, cache=tmp_path)
    everything = np.arange(first.count)
    np.testing.assert_array_equal(first.signals.at(everything)["motion"], again.signals.at(everything)["motion"])


def test_what_does_not_fit_is_refused_before_any_work(prior, tmp_path):
    scene.fill(tmp_path)
    system = tiny_xnemo.make_system()
    wide = MotionPriorTask.from_config(prior_config(width=5))
    for changes, message in (
        ({"prior": wide}, "latents of 5 numbers, xnemo's have 8"),
        ({"emotion": 2}, "emotion 2 does not exist: the prior knows 2, from 0 on"),
        ({"seconds": 0.0}, "cannot be extended by 0.0 seconds"),
    ):
        with pytest.raises(ConfigError, match=message):
            animate_files(Animator(system, {}), scene.job(tmp_path), extension=dataclasses.replace(prior, **changes))
    with pytest.raises(ConfigError, match="follow_your_emoji has no motion latents that a prior could go on from"):
        animate_files(Animator(tiny.make_system(), {}), scene.job(tmp_path), extension=prior)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_video_goes_on_from_file_to_file(animator, prior, tmp_path, monkeypatch):
    scene.install_detector(monkeypatch, tmp_path, scene.fill(tmp_path))
    job = scene.job(tmp_path, driving="driving.mp4")
    record = animate_files(animator, job, extension=prior)
    more = round(0.4 * scene.NTSC)
    assert record["frames"] == probe(job.output).frames == scene.FRAMES + more
    assert record["extension"] == {"seconds": 0.4, "emotion": -1, "temperature": 1.0, "top_p": 0.95}
    video = read_video(job.output).astype(int)
    assert np.abs(np.diff(video[-more:], axis=0)).max() > 0, "what follows stands still"
    (job.parts).mkdir()
    of_result = ("frames", "fps", "audio", "version", "jax", "device")
    (job.parts / "job.json").write_text(json.dumps({k: v for k, v in record.items() if k not in of_result}))
    longer = dataclasses.replace(prior, seconds=0.5)
    with pytest.raises(InputFileError, match=r"extension.seconds \(0.4, now 0.5\)"):
        animate_files(animator, dataclasses.replace(job, resume=True), extension=longer)


def test_the_flags_give_the_prior_with_its_own_config(prior, tmp_path):
    path = tmp_path / "prior.safetensors"
    save_params(path, prior.params, {"config": json.loads(prior_config().to_json_best_effort())})
    found = load_extension(str(path), 2.0, 1)
    assert (found.seconds, found.emotion, found.prior.config.emotions) == (2.0, 1, 2)
    jax.tree.map(np.testing.assert_array_equal, dict(found.params), dict(prior.params))
    assert load_extension(None, None, None) is None and load_extension(str(path), 1.0, None).emotion == -1
    with pytest.raises(ConfigError, match="--extend needs --prior"):
        load_extension(None, 1.0, None)
    with pytest.raises(ConfigError, match="go with --extend"):
        load_extension(str(path), None, None)
    save_params(path, {"x": {"y": np.ones(2)}}, {"config": {"task": "probe"}})
    with pytest.raises(CheckpointError, match="holds 'probe', not a motion prior"):
        load_extension(str(path), 1.0, None)
