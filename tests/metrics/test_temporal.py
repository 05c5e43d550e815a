"""Temporal metrics on videos whose motion is known in closed form."""

import numpy as np
import pytest

from portrait_jax.errors import ShapeError
from portrait_jax.metrics.temporal import acceleration, flicker, jitter, smoothness


def fading(frames=6, curve=lambda t: t):
    """A video whose grey level is `curve(frame)`, 0..1."""
    return np.stack([np.full((4, 4, 3), curve(t)) for t in range(frames)])


def test_a_steady_fade_has_no_acceleration():
    assert acceleration(fading(curve=lambda t: 0.1 * t)) == pytest.approx(0.0, abs=1e-12)


def test_acceleration_of_a_parabola_is_its_second_difference():
    assert acceleration(fading(curve=lambda t: 0.01 * t**2)) == pytest.approx(0.02)


def test_smoothness_is_one_for_the_truth_and_zero_for_a_still_result():
    truth = fading(curve=lambda t: 0.01 * t**2)
    assert smoothness(truth, truth) == pytest.approx(1.0)
    assert smoothness(np.zeros_like(truth), truth) == 0.0


def test_smoothness_grows_with_trembling():
    truth = fading(curve=lambda t: 0.01 * t**2)
    trembling = truth + 0.05 * (np.arange(6) % 2)[:, None, None, None]
    assert smoothness(trembling, truth) > 2


def test_flicker_counts_only_where_the_truth_stands_still():
    truth, result = np.zeros((5, 4, 4, 3)), np.zeros((5, 4, 4, 3))
    truth[:, :2] = 0.2 * np.arange(5)[:, None, None, None]
    result[:, :2] = np.random.default_rng(0).random((5, 2, 4, 3))
    assert flicker(result, truth) == 0.0
    result[1::2, 2:] = 0.1
    assert flicker(result, truth) == pytest.approx(0.1)


def test_flicker_is_undefined_when_everything_moves():
    assert np.isnan(flicker(fading(), fading()))


def test_jitter_of_uniform_motion_is_zero():
    points = np.arange(5)[:, None, None] * np.array([[1.0, -2.0], [0.5, 3.0]])
    assert jitter(points) == pytest.approx(0.0)
    points[2] += (3.0, 4.0)
    assert jitter(points) == pytest.approx((5 + 10 + 5) / 3)


def test_two_frames_are_too_few():
    with pytest.raises(ShapeError, match="at least 3"):
        acceleration(fading(frames=2))
