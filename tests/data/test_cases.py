"""Protects: the exact answers that results are measured by, and that the stored demo driver is the generator's."""

from __future__ import annotations

import wave

import numpy as np
import pytest

from data import cases, synthetic
from portrait_jax.face.alignment import load_landmarks
from portrait_jax.face.measures import fit_pose

SIZE, FRAMES = 64, 6


@pytest.fixture(scope="module")
def performance() -> synthetic.Performance:
    return synthetic.sample_performance(77, FRAMES)


@pytest.fixture(scope="module")
def own(performance):
    """Person 3 driven by itself."""
    return cases.make_case("own", 3, 3, performance, SIZE)


@pytest.fixture(scope="module")
def cross(performance):
    """Person 3 driven by person 4."""
    return cases.make_case("cross", 3, 4, performance, SIZE)


def test_the_truth_of_a_person_driven_by_itself_is_its_own_rendering(own, performance):
    person = synthetic.sample_identity(synthetic.split_seed("test", 3))
    rendering = synthetic.render_clip(person, performance, SIZE)
    np.testing.assert_array_equal(own.truth, rendering["frames"])
    np.testing.assert_array_equal(own.truth_landmarks, rendering["landmarks"])
    np.testing.assert_array_equal(own.driving_landmarks, rendering["landmarks"])


def test_another_driver_changes_the_driving_landmarks_and_nothing_else(own, cross, performance):
    for name in ("portrait", "reference_landmarks", "truth", "truth_landmarks"):
        np.testing.assert_array_equal(getattr(own, name), getattr(cross, name))
    driver = synthetic.sample_identity(synthetic.split_seed("test", 4))
    np.testing.assert_array_equal(
        cross.driving_landmarks, synthetic.render_clip(driver, performance, SIZE)["landmarks"]
    )
    assert np.abs(cross.driving_landmarks - own.driving_landmarks).max() > 1


@pytest.mark.parametrize("seed", [77, 78, 79, 80])
def test_the_portraits_face_stands_where_the_face_of_the_first_frame_stands(seed):
    """Motion is transferred relative to the first frame, so an offset between both would be in every frame."""
    performance = synthetic.sample_performance(seed, 1)
    case = cases.make_case("x", 3, 3, performance, SIZE)
    still, first = fit_pose(case.reference_landmarks), fit_pose(case.truth_landmarks[0])
    assert still.scale == pytest.approx(float(first.scale), rel=0.1)
    turned = np.abs(performance.pose[0, :3]).max() / 35
    assert np.abs(still.translation - first.translation)[:2].max() < (0.02 + 0.06 * turned) * SIZE


def test_the_portrait_is_neutral(own):
    person = synthetic.sample_identity(synthetic.split_seed("test", 3))
    pose = np.zeros(6, np.float32)
    pose[3:] = synthetic.sample_performance(77, FRAMES).pose[0, 3:]
    neutral = synthetic.render(person, pose, np.zeros(len(synthetic.EXPRESSION_NAMES), np.float32), SIZE)
    np.testing.assert_array_equal(own.portrait, neutral.image)
    np.testing.assert_array_equal(own.reference_landmarks, neutral.landmarks)


def test_evaluation_cases_differ_from_each_other_and_share_truth_between_kinds():
    same, cross = (cases.evaluation_cases(2, 2, SIZE, 0, cross=cross) for cross in (False, True))
    assert (same[0].portrait != same[1].portrait).any()
    for one, other in zip(same, cross, strict=True):
        np.testing.assert_array_equal(one.truth, other.truth)
        assert (one.driving_landmarks != other.driving_landmarks).any()
    again = cases.evaluation_cases(2, 2, SIZE, 1, cross=False)
    assert (again[0].truth_landmarks != same[0].truth_landmarks).any(), "the seed does not change the performance"


def test_who_speaks_looks_where_it_begins_to_and_is_heard_as_long_as_it_is_seen():
    case = cases.spoken_case(2, 5, SIZE, 0)
    np.testing.assert_array_equal(case.truth, cases.spoken_case(2, 5, SIZE, 0).truth)
    assert len(case.truth) == 5 and len(case.sound) == 5 * 16000 // 25 and np.abs(case.sound).max() <= 1
    still, first = fit_pose(case.reference_landmarks), fit_pose(case.truth_landmarks[0])
    np.testing.assert_allclose(still.rotation, first.rotation, atol=0.05)
    assert (cases.spoken_case(2, 5, SIZE, 1).truth_landmarks != case.truth_landmarks).any()


def test_the_people_of_the_demo_are_unseen_and_are_not_their_driver():
    people = {*cases.DEMO_PEOPLE, cases.DEMO_DRIVER}
    assert len(people) == len(cases.DEMO_PEOPLE) + 1
    assert all(synthetic.split_seed("test", person) % 2 == 1 for person in people)


def test_the_stored_driving_of_the_demo_is_what_the_generator_gives():
    if not cases.DRIVING.exists():
        pytest.skip("the demo's driver has not been stored yet; python -m data.cases makes it")
    stored = load_landmarks(cases.DRIVING)
    performance = cases.demo_performance()
    driver = synthetic.sample_identity(synthetic.split_seed("test", cases.DEMO_DRIVER))
    assert stored.fps == performance.fps and len(stored.landmarks) == cases.DEMO_FRAMES
    for i in range(0, cases.DEMO_FRAMES, 7):
        frame = synthetic.render(driver, performance.pose[i], performance.expression[i], stored.width)
        np.testing.assert_allclose(stored.landmarks[i], frame.landmarks, atol=1 / 64)
    with wave.open(str(cases.SOUND)) as file:
        sound = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        assert file.getframerate() == 16000
    np.testing.assert_array_equal(sound, performance.audio)


def test_writing_the_demo_driver_gives_a_readable_sequence_and_sound(tmp_path, monkeypatch):
    monkeypatch.setattr(cases, "DRIVING", tmp_path / "d.npz")
    monkeypatch.setattr(cases, "SOUND", tmp_path / "d.wav")
    monkeypatch.setattr(cases, "DEMO_FRAMES", 3)
    cases.write_demo_driving(SIZE)
    stored = load_landmarks(tmp_path / "d.npz")
    case = cases.demo_cases(SIZE)[0]
    np.testing.assert_allclose(stored.landmarks, case.driving_landmarks, atol=1 / 64)
    with wave.open(str(tmp_path / "d.wav")) as file:
        assert file.getnframes() == pytest.approx(3 / 25 * 16000, abs=2)
