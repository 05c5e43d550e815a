"""Protects: the config's alignment is the one that moves the portrait, by the neutral frame that the release would take."""

from __future__ import annotations

import numpy as np
import pytest

from portrait_jax.animation.motion import make_alignment
from portrait_jax.animation.portrait import Portrait
from portrait_jax.errors import ConfigError
from portrait_jax.face.alignment import Alignment, LandmarkSequence
from portrait_jax.face.metric import MetricAlignment
from tests.face.faces import canonical, make_face, placed, write_bundle

POINTS = placed(make_face(), scale=8.0, at=(110.0, 120.0))
PORTRAIT = Portrait(np.zeros((256, 256, 3), np.uint8), POINTS)
DRIVING = np.stack([placed(make_face(mouth=0.3 * i), yaw=3.0 * i) for i in range(4)])


def make(tmp_path, kind, expression=None, rotation="absolute"):
    sequence = LandmarkSequence(25.0, 320, 240, DRIVING, expression)
    path = write_bundle(tmp_path / "face.task", canonical())
    return make_alignment(kind, sequence, PORTRAIT, rotation=rotation, bundle=lambda: path)


@pytest.mark.parametrize("rotation", ["absolute", "relative"])
def test_each_kind_is_its_own_alignment(tmp_path, rotation):
    found = make(tmp_path, "proportional", rotation=rotation)(DRIVING)
    np.testing.assert_array_equal(found, Alignment.of(DRIVING, POINTS, mode=rotation)(DRIVING))
    expected = MetricAlignment.of(DRIVING, (320, 240), POINTS, (256, 256), canonical(), mode=rotation)(DRIVING)
    np.testing.assert_allclose(make(tmp_path, "metric", rotation=rotation)(DRIVING), expected, atol=1e-3)


def test_without_alignment_the_drivers_face_stays_where_it_is_in_its_frame(tmp_path):
    """The middle of a wide frame becomes the middle of the square result, at the scale of the shorter side."""
    points = np.array([[160.0, 120, 0], [160, 0, 3], [40, 120, 0]], np.float32)
    k = 256 / 240
    expected = [[128, 128, 0], [128, 0, 3 * k], [128 - 120 * k, 128, 0]]
    np.testing.assert_allclose(make(tmp_path, "none")(points), expected, atol=1e-4)


def test_the_frame_with_the_least_expression_is_neutral(tmp_path):
    scores = np.array([3.0, 2.0, 0.5, 0.7], np.float32)
    expected = MetricAlignment.of(DRIVING, (320, 240), POINTS, (256, 256), canonical(), neutral_index=2)(DRIVING)
    np.testing.assert_allclose(make(tmp_path, "metric", scores)(DRIVING), expected, atol=1e-3)
    assert np.abs(make(tmp_path, "metric")(DRIVING) - expected).max() > 0.5, "another neutral frame, other landmarks"


def test_the_face_model_is_not_asked_for_without_need():
    sequence = LandmarkSequence(25.0, 320, 240, DRIVING)
    make_alignment("proportional", sequence, PORTRAIT, rotation="absolute", bundle=lambda: pytest.fail("asked"))


def test_an_unknown_kind_is_named(tmp_path):
    with pytest.raises(ConfigError, match="'metrical' is not known; did you mean 'metric'"):
        make(tmp_path, "metrical")
