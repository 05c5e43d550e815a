"""Skeletons: onto the portrait by nose and size, eyes of others left out, limbs dropped, drawings that show what is seen."""

import numpy as np
import pytest

from portrait_jax.errors import ConfigError, ShapeError
from portrait_jax.face.skeleton import (
    JOINTS,
    LIMBS,
    aligned,
    draw_skeleton,
    from_mediapipe,
    random_limbs,
    without_eyes,
)

POINTS = np.array(
    [[64, 40], [64, 70], [44, 72], [34, 95], [36, 115], [84, 72], [94, 95], [92, 115], [58, 34], [70, 34], [50, 38], [78, 38]],
    np.float32,
)  # fmt: skip


def test_a_driver_lies_on_the_portrait_by_nose_and_size():
    driving = np.stack([POINTS, POINTS + 6]) * 2 + np.array([100, 30], np.float32)
    made = aligned(driving, POINTS)
    np.testing.assert_allclose(made[0], POINTS, atol=1e-3)
    np.testing.assert_allclose(made[1], POINTS + 6, atol=1e-3)


def test_what_one_does_not_show_is_not_measured():
    half = POINTS.copy()
    half[JOINTS.index("left_shoulder")] = np.nan
    np.testing.assert_allclose(aligned(2 * half[None], POINTS)[0, :2], POINTS[:2], atol=1e-3)
    half[JOINTS.index("neck")] = np.nan
    np.testing.assert_allclose(aligned(3 * half[None], POINTS)[0, -4:], POINTS[-4:], atol=1e-3, err_msg="eyes and ears")
    half[-3:] = np.nan
    with pytest.raises(ShapeError, match="neither shoulders or neck"):
        aligned(half[None], POINTS)
    half[JOINTS.index("nose")] = np.nan
    with pytest.raises(ShapeError, match="by their noses"):
        aligned(half[None], POINTS)


def test_mediapipes_landmarks_become_joints_and_hidden_ones_are_not_seen():
    landmarks = np.random.default_rng(0).uniform(0, 100, (2, 33, 3)).astype(np.float32)
    visibility = np.ones((2, 33), np.float32)
    visibility[1, 16] = 0.2
    made = from_mediapipe(landmarks, visibility)
    np.testing.assert_allclose(made[0, JOINTS.index("neck")], landmarks[0, [11, 12], :2].mean(0))
    assert np.isnan(made).any(axis=(0, 2)).sum() == 1 and np.isnan(made[1, JOINTS.index("right_wrist")]).all()


def test_drawings_show_limbs_that_are_seen_and_wanted():
    whole = draw_skeleton(POINTS, 128, 128)
    assert whole[70, 54].any() and not whole[5, 5].any()
    nothing = draw_skeleton(np.full_like(POINTS, np.nan), 128, 128)
    assert not nothing.any()
    only = draw_skeleton(POINTS, 128, 128, [number == 0 for number in range(len(LIMBS))])
    assert only[71, 54].any() and not only[95, 94].any()
    assert not draw_skeleton(POINTS + 1e6, 128, 128).any()


def test_without_eyes_the_ears_hang_on_the_nose():
    seen, hidden = draw_skeleton(POINTS, 128, 128), draw_skeleton(without_eyes(POINTS[None])[0], 128, 128)
    assert seen[34, 58].any() and not hidden[33, 58].any()
    assert hidden[39, 57].any() and np.isfinite(POINTS).all()


def test_limbs_of_training_clips_are_left_out_at_random():
    rng = np.random.default_rng(0)
    drawn = np.stack([random_limbs(rng, 0.1) for _ in range(2000)])
    assert np.abs(drawn.mean(0) - 0.9).max() < 0.03 and len(np.unique(drawn, axis=0)) > 10
    with pytest.raises(ConfigError, match="probability in 0..1"):
        random_limbs(rng, drop=2.0)
