"""Following metrics: what they read, what they ignore, and what chance gives."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portrait_jax.errors import ShapeError
from portrait_jax.face.measures import mouth_opening
from portrait_jax.metrics.following import correlation, follow, following, yaw_ratio
from tests.metrics.faces import face

FRAMES = 60
TIME = np.linspace(0, 2 * np.pi, FRAMES)
MOUTH, YAW = 0.15 + 0.1 * np.sin(5 * TIME), 0.4 * np.cos(2 * TIME)


@settings(deadline=None, max_examples=25)
@given(scale=st.floats(10, 200), x=st.floats(-50, 300), y=st.floats(-50, 300), roll=st.floats(-0.8, 0.8))
def test_measures_do_not_depend_on_place_size_and_roll(scale, x, y, roll):
    moved = face(MOUTH, YAW, scale=scale, centre=(x, y), roll=roll)
    plain = face(MOUTH, YAW)
    np.testing.assert_allclose(mouth_opening(moved), mouth_opening(plain), atol=1e-6)
    np.testing.assert_allclose(yaw_ratio(moved), yaw_ratio(plain), atol=1e-6)


def test_mouth_opening_grows_with_the_opening_and_ignores_yaw():
    openings = mouth_opening(face(np.linspace(0, 0.4, 9), 0.0))
    assert openings[0] == pytest.approx(0.0) and (np.diff(openings) > 0).all()
    np.testing.assert_allclose(mouth_opening(face(0.2, np.linspace(-0.6, 0.6, 9))), openings[4], rtol=1e-6)


def test_yaw_is_odd_monotone_and_ignores_the_mouth():
    yaws = yaw_ratio(face(0.0, np.linspace(-0.6, 0.6, 9)))
    assert (np.diff(yaws) > 0).all()
    np.testing.assert_allclose(yaws, -yaws[::-1], atol=1e-9)
    np.testing.assert_allclose(yaw_ratio(face(np.linspace(0, 0.4, 9), 0.3)), yaw_ratio(face(0.0, [0.3]))[0])


def test_another_face_that_moves_alike_follows_and_a_shuffled_driver_does_not():
    result = face(0.5 * MOUTH + 0.01, 0.8 * YAW, scale=30, centre=(40, 50))
    for name, followed in following(face(MOUTH, YAW), result).items():
        assert followed.correlation > 0.99, name
        assert abs(followed.shuffled) < 0.05, name
        assert followed.follows


def test_the_opposite_motion_has_negative_correlation_and_does_not_follow():
    followed = following(face(MOUTH, YAW), face(0.3 - MOUTH, -YAW))
    assert followed["yaw"].correlation < -0.99 and not followed["yaw"].follows
    assert followed["mouth"].correlation < -0.99 and not followed["mouth"].follows


def test_a_still_face_follows_nothing():
    followed = following(face(MOUTH, YAW), face(np.full(FRAMES, 0.1), 0.0))
    assert all(abs(one.correlation) < 1e-6 and not one.follows for one in followed.values())


def test_unrelated_courses_stay_within_chance():
    rng = np.random.default_rng(1)
    followed = follow(rng.normal(size=400), rng.normal(size=400))
    assert 0.05 < followed.chance < 0.15 and abs(followed.shuffled) < 0.02


@given(st.lists(st.floats(-10, 10), min_size=3, max_size=20))
def test_correlation_agrees_with_numpy(values):
    a = np.array(values)
    b = np.cos(np.arange(len(a))) + 0.1 * a
    expected = np.corrcoef(a, b)[0, 1] if np.std(a) > 1e-5 else None
    assert expected is None or correlation(a, b) == pytest.approx(expected, abs=1e-6)


def test_different_lengths_are_refused():
    with pytest.raises(ShapeError, match="frame by frame"):
        following(face(MOUTH, YAW), face(MOUTH[:-1], YAW[:-1]))
