"""The evaluation's cases and its entry point."""

import subprocess
import sys

import numpy as np
import pytest

from data import synthetic
from data.cases import average_person, evaluation_cases
from portrait_jax.metrics.detector import Detector
from portrait_jax.metrics.suite import BASELINES, evaluate


@pytest.fixture(scope="module")
def both():
    """One case of each kind: a person driven by itself and by another."""
    return {name: evaluation_cases(1, 8, 64, 0, cross=name == "cross") for name in ("same", "cross")}


def test_same_identity_is_driven_by_its_own_landmarks(both):
    case = both["same"][0]
    assert case.truth.shape == (8, 64, 64, 3) and case.portrait.shape == (64, 64, 3)
    np.testing.assert_array_equal(case.driving_landmarks, case.truth_landmarks)


def test_cross_identity_has_the_same_answer_but_another_driver(both):
    same, cross = both["same"][0], both["cross"][0]
    np.testing.assert_array_equal(same.truth, cross.truth)
    np.testing.assert_array_equal(same.portrait, cross.portrait)
    assert np.abs(cross.driving_landmarks - cross.truth_landmarks)[:, :468, :2].max() > 1.0


def test_the_portrait_is_neutral_and_stands_where_the_drivers_first_frame_stands(both):
    case = both["same"][0]
    moved = np.linalg.norm(case.reference_landmarks[168, :2] - case.truth_landmarks[0, 168, :2])
    assert moved < 0.1 * 64
    assert np.linalg.norm(case.reference_landmarks[13, :2] - case.reference_landmarks[14, :2]) < 1.0


def test_the_baselines_score_as_they_must_on_real_cases(both):
    for scores in evaluate(BASELINES, both, Detector.load(), average_person=average_person(20)).values():
        truth, still = scores["truth"], scores["still reference"]
        assert truth["l1"] == 0 < still["l1"] and truth["identity"] == pytest.approx(1)
        assert truth["landmark_error"] < still["landmark_error"]


def test_people_differ_from_the_average_in_many_directions():
    people = [synthetic.identity_attributes(synthetic.sample_identity(seed)) for seed in range(1, 40, 2)]
    offsets = np.stack(people) - average_person()
    offsets /= np.linalg.norm(offsets, axis=-1, keepdims=True)
    assert abs((offsets @ offsets.T)[np.triu_indices(20, 1)].mean()) < 0.15


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config is missing"),
        (["--config=configs/follow_your_emoji.py:demo"], "--output is missing"),
        (
            ["--config=configs/follow_your_emoji.py:demo", "--output=x", "--probe=nowhere.safetensors"],
            "nowhere.safetensors",
        ),
    ],
)
def test_wrong_use_is_a_message_with_status_2(root, arguments, message):
    command = [sys.executable, "-m", "launch.evaluate", *arguments]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
