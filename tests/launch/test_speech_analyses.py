"""Protects the analyses of what sound drives, from people and sounds to reports, on the smallest system."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from data.cases import spoken_case
from launch.evaluations import attention, common, sound, speed
from launch.evaluations.common import Options
from portrait_jax.animation import Animator
from portrait_jax.errors import ConfigError
from portrait_jax.face.measures import EYE_CORNERS, INNER_LIPS_LOWER
from portrait_jax.face.topology import MOUTH_CORNERS
from portrait_jax.media.image import read_image
from portrait_jax.metrics.detector import DEFAULT_WEIGHTS
from tests import tiny, tiny_anyexpress

FRAMES = 8


@pytest.fixture(scope="module")
def animator() -> Animator:
    system = tiny_anyexpress.make_system()
    return Animator(system, tiny.make_params(system))


def options(folder, frames=FRAMES, people=1) -> Options:
    return Options(folder, people, frames, 0, str(DEFAULT_WEIGHTS), anchors=tuple(sound.ANCHORS))


def noisy_case(index, frames, size, seed):
    """So few frames as these would be silent otherwise."""
    person = spoken_case(index, frames, size, seed)
    return replace(person, sound=np.random.default_rng(index).normal(0, 0.1, person.sound.shape).astype(np.float32))


def test_entropies_are_told_for_each_condition_level_and_block(animator, tmp_path, monkeypatch):
    monkeypatch.setattr(attention, "spoken_case", noisy_case)
    attention.run(animator, options(tmp_path, frames=4), {"seed": 0})
    found = json.loads((tmp_path / "attention_entropy.json").read_text())
    levels = sorted(int(level) for level in animator.solver.timesteps)
    assert found["timesteps"] == levels and found["mean"].keys() == {"text", "identity", "sound", "silence"}
    assert [at.keys() for at in found["blocks"]] == [found["mean"].keys()] * len(levels)
    for name, course in found["mean"].items():
        assert course == pytest.approx([np.mean(list(at[name].values())) for at in found["blocks"]])
        assert all(0 < value <= 1.0001 for value in course)
    assert len(set(found["mean"]["sound"])) == len(levels), "levels differ"
    assert found["mean"]["sound"] != found["mean"]["silence"]
    assert read_image(tmp_path / "attention_entropy.png").std() > 1


def test_more_frames_than_the_network_sees_at_once_are_refused(animator, tmp_path):
    with pytest.raises(ConfigError, match="sees 4 frames at once, not 5"):
        attention.run(animator, options(tmp_path, frames=5), {})
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_every_way_of_going_on_is_measured_against_the_truth(animator, tmp_path):
    sound.run_anchors(animator, options(tmp_path), {"seed": 0})
    found = json.loads((tmp_path / "metrics.json").read_text())["metrics"][f"{FRAMES} frames"]
    assert found.keys() == sound.ANCHORS.keys()
    drifts = {name: row["colour_drift"] for name, row in found.items()}
    assert all(np.isfinite(list(drifts.values()))) and len(set(drifts.values())) == len(drifts), "one way each"
    assert (tmp_path / "comparison.png").is_file()
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert found["people"].keys() == found["colours"]["moved"].keys() == sound.ANCHORS.keys()


def test_courses_are_means_of_seconds():
    values = np.arange(14.0).reshape(7, 2)
    np.testing.assert_allclose(sound.by_second(values, 3), [[2, 3], [8, 9]])
    np.testing.assert_allclose(sound.by_second(values[:2], 25), [[1, 2]])


def lips_of(video):
    """Landmarks of a face whose lips open as a frame is bright: nothing can be read off 32 pixels of noise."""
    points = np.zeros((len(video), 478, 3), np.float32)
    points[:, EYE_CORNERS[2:], 0], points[:, MOUTH_CORNERS, 1] = 10, 10
    points[:, INNER_LIPS_LOWER, 1] = video.mean(axis=(1, 2, 3))[:, None] / 255
    return SimpleNamespace(landmarks_px=points)


def loud(animator, person, samples, seed):
    """Instead of a trained network: frames as bright as their sound is loud."""
    frames = len(person.truth)
    volume = np.abs(samples[: len(samples) // frames * frames]).reshape(frames, -1).mean(axis=1)
    return np.broadcast_to(np.uint8(2000 * volume.clip(0, 0.12))[:, None, None, None], (frames, 32, 32, 3))


def test_mouths_are_compared_with_their_own_anothers_and_no_sound(animator, tmp_path, monkeypatch):
    monkeypatch.setattr(sound.Detector, "load", lambda weights: SimpleNamespace(detect=lips_of))
    monkeypatch.setattr(sound, "speak", loud)
    sound.run(animator, options(tmp_path, frames=96, people=2), {"seed": 0})
    found = json.loads((tmp_path / "metrics.json").read_text())["metrics"]["96 frames"]
    assert found.keys() == {"own sound", "another's sound", "silence", "truth"}
    assert found["own sound"]["correlation"] > found["another's sound"]["correlation"] + 0.2
    people = json.loads((tmp_path / "metrics.json").read_text())["people"]
    assert np.mean([row["correlation"] for row in people["own sound"]]) == found["own sound"]["correlation"]
    assert found["silence"]["movement"] == 0 < found["own sound"]["movement"]


def test_variants_of_sampling_are_timed_while_people_speak(animator, tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "spoken_case", noisy_case)
    speed.run(animator, options(tmp_path)._replace(variants=("guidance_interval=(0.5,1)",)), {})
    found = json.loads((tmp_path / "metrics.json").read_text())["metrics"]["own sound"]
    assert found.keys() == {"plain", "guidance_interval=(0.5,1)"}
    assert 5 < found["guidance_interval=(0.5,1)"]["distance"] < 100, (
        "guidance in part of the steps draws something else"
    )


def test_a_person_is_animated_by_sound_where_sound_drives(animator, monkeypatch):
    person = noisy_case(0, FRAMES, 32, 0)
    heard = []
    monkeypatch.setattr(common, "speak", lambda animator, case, samples, seed: heard.append(samples))
    common.animate(animator, person, 0)
    np.testing.assert_array_equal(heard[0], person.sound)
