"""Head pose and openings are read off the landmarks as they were put in."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portrait_jax.face.measures import eye_opening, fit_pose, head_pose, mouth_opening, yaw
from tests.face.faces import make_face, placed

angle = st.floats(-50, 50)


@given(angle, angle, angle, st.floats(1, 40), st.floats(-200, 800), st.floats(-200, 800))
def test_the_head_pose_is_found_wherever_and_however_large_the_face_is(a, b, c, scale, x, y):
    face = placed(make_face(), a, b, c, scale, (x, y))
    np.testing.assert_allclose(head_pose(face), (a, b, c), atol=0.2)
    assert fit_pose(face).scale == pytest.approx(scale, rel=0.01)


@given(angle, st.floats(0, 3))
def test_openings_do_not_depend_on_pose_and_size(a, opening):
    face = make_face(mouth=opening)
    frontal, turned = placed(face, scale=7.0), placed(face, yaw=a, roll=20.0, scale=23.0, at=(300.0, 10.0))
    np.testing.assert_allclose(mouth_opening(frontal), mouth_opening(turned), atol=1e-3)
    np.testing.assert_allclose(eye_opening(frontal), eye_opening(turned), atol=1e-3)


def test_openings_grow_with_what_opens():
    mouths = mouth_opening(np.stack([placed(make_face(mouth=m)) for m in (0.0, 1.0, 2.0)]))
    # Eyes and mouth corners lie 6.8 cm apart; the three pairs of lip points that count open by 96 % of the middle's gap.
    np.testing.assert_allclose(mouths, np.array([0, 1, 2]) * 0.96 / 6.8, rtol=0.03)
    assert mouths[2] == pytest.approx(2 * mouths[1])
    eyes = eye_opening(np.stack([placed(make_face(eyes=e)) for e in (0.0, 0.5, 1.0)]))
    assert eyes.shape == (3, 2) and (np.diff(eyes, axis=0) > 0.05).all() and eyes[0].max() < 1e-5


def test_placing_undoes_removing():
    faces = np.stack([placed(make_face(), yaw=a, scale=5.0 + a) for a in (0.0, 10.0, 20.0)])
    poses = fit_pose(faces)
    np.testing.assert_allclose(poses.place(poses.remove(faces)), faces, atol=1e-3)


def test_yaw_is_positive_towards_image_right():
    turned = placed(make_face(), yaw=30.0)
    assert yaw(turned) > 25 and turned[4, 0] > turned[[33, 263], 0].mean()
