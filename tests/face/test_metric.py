"""Protects: on the metric mesh a portrait keeps its shape and place, takes over the driver's, and survives closed eyes."""

from __future__ import annotations

import numpy as np
import pytest

from portrait_jax.errors import ConfigError, ShapeError
from portrait_jax.face.measures import head_pose, mouth_opening
from portrait_jax.face.metric import MetricAlignment, metric_face, project
from portrait_jax.face.topology import EYES, index
from tests.face.faces import canonical, make_face, placed

GEOMETRY = canonical()
DRIVER, PORTRAIT = (640, 480), (400, 560)
"""(width, height) of the pictures."""
REFERENCE = placed(make_face(mouth=0.1), scale=12.0, at=(190.0, 300.0))


def aligned(driving, **options):
    return MetricAlignment.of(driving, DRIVER, REFERENCE, PORTRAIT, GEOMETRY, **options)(driving)


def clip(*faces):
    return np.stack(faces)


def test_a_face_projects_back_onto_the_landmarks_that_it_was_measured_from():
    face = metric_face(REFERENCE, PORTRAIT, GEOMETRY)
    camera = face.mesh @ face.rotation.T + face.translation
    # The released projection stretches by one ten-thousandth.
    np.testing.assert_allclose(project(camera, PORTRAIT), REFERENCE[:468, :2], atol=0.03)


@pytest.mark.parametrize("mode", ["absolute", "relative"])
def test_a_driver_that_is_the_reference_itself_changes_nothing(mode):
    alignment = MetricAlignment.of(REFERENCE[None], PORTRAIT, REFERENCE, PORTRAIT, GEOMETRY, mode=mode)
    np.testing.assert_allclose(alignment(REFERENCE[None])[0], REFERENCE[:, :2], atol=0.05)


def test_frames_come_out_alike_alone_and_in_the_whole_clip():
    driving = clip(*(placed(make_face(mouth=0.1 * i), yaw=2.0 * i, at=(290.0 + i, 230.0)) for i in range(5)))
    alignment = MetricAlignment.of(driving, DRIVER, REFERENCE, PORTRAIT, GEOMETRY)
    np.testing.assert_allclose(alignment(driving[3:]), alignment(driving)[3:], atol=1e-9)


def test_mouth_and_head_follow_the_driver():
    driving = clip(
        placed(make_face(mouth=0.0), at=(320.0, 240.0)),
        placed(make_face(mouth=1.5), at=(320.0, 240.0)),
        placed(make_face(mouth=0.0), yaw=25.0, at=(320.0, 240.0)),
    )
    moved = aligned(driving, neutral_index=0)
    opened = mouth_opening(moved)
    assert opened[1] > opened[0] + 0.1 and abs(opened[2] - opened[0]) < 0.05
    nose = moved[:, 4, 0] - moved[:, index((234, 454)), 0].mean(axis=1)
    assert abs(nose[1] - nose[0]) < 1 < nose[2] - nose[0]


def test_an_absolute_rotation_is_the_drivers_and_a_relative_one_is_added():
    """The portrait looks 15° to one side already, the driver always 10° to the other."""
    turned = placed(make_face(), yaw=15.0, scale=12.0, at=(190.0, 300.0))
    driving = placed(make_face(), yaw=-10.0, at=(320.0, 240.0))[None]
    for mode, expected in (("absolute", -10.0), ("relative", 15.0)):
        alignment = MetricAlignment.of(driving, DRIVER, turned, PORTRAIT, GEOMETRY, mode=mode)
        faces = metric_face(driving, DRIVER, GEOMETRY)
        rotation = alignment._rotation(faces.rotation)[0]
        flipped = np.diag([1.0, -1.0, -1.0])
        depth = np.zeros((478, 3))
        depth[:468] = GEOMETRY.vertices @ (flipped @ rotation).T
        assert head_pose(depth.astype(np.float32))[0] == pytest.approx(expected, abs=2.0)


def test_in_the_first_frame_the_face_lies_where_the_references_lies():
    driving = clip(*(placed(make_face(), scale=20.0, at=(150.0 + 40 * i, 240.0)) for i in range(2)))
    moved = aligned(driving)
    np.testing.assert_allclose(moved[0].mean(axis=0), REFERENCE[:, :2].mean(axis=0), atol=2)
    assert moved[1, :, 0].mean() > moved[0, :, 0].mean() + 5


def test_the_iris_keeps_its_place_in_the_eye_and_a_closed_eye_stays_finite():
    driving = clip(
        placed(make_face(gaze=(0.5, 0.0)), at=(320.0, 240.0)), placed(make_face(eyes=0.0), at=(320.0, 240.0))
    )
    moved = aligned(driving)
    assert np.isfinite(moved).all()
    for eye in EYES:
        for before, after in zip(driving[:1], moved[:1]):
            places = []
            for points in (before, after):
                box = points[index(eye.contour), :2]
                places.append((points[eye.iris[0], :2] - box.min(0)) / np.ptp(box, axis=0))
            np.testing.assert_allclose(places[1], places[0], atol=1e-3)


def test_an_unknown_mode_and_an_empty_clip_are_refused():
    with pytest.raises(ConfigError, match="did you mean 'relative'"):
        aligned(REFERENCE[None], mode="relativ")
    with pytest.raises(ShapeError, match="no driving frames"):
        aligned(np.zeros((0, 478, 3), np.float32))
