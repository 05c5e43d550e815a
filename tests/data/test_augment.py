"""Protects: augmented frames and landmarks still belong together."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data import augment


def test_landmarks_follow_the_warped_picture():
    rng = np.random.default_rng(1)
    frames = np.zeros((1, 64, 64, 3), np.uint8)
    frames[0, 20:23, 40:43] = 255
    landmarks = np.zeros((1, 478, 3), np.float32)
    landmarks[0, :] = (41.5, 21.5, 2.0)
    matrix = augment.crop_matrix(rng, 0.3, 64)
    moved = augment.apply_crop(frames, matrix)[0, ..., 0].astype(float)
    rows, columns = np.mgrid[:64, :64] + 0.5
    centre = np.array([(moved * columns).sum(), (moved * rows).sum()]) / moved.sum()
    found = augment.move_landmarks(landmarks, matrix)[0, 7]
    np.testing.assert_allclose(found[:2], centre, atol=0.15)
    assert np.hypot(*(found[:2] - (41.5, 21.5))) > 0.5
    np.testing.assert_allclose(found[2], 2 * matrix[0, 0], rtol=1e-6)


@given(st.integers(0, 1000), st.floats(0, 0.5))
def test_tone_curves_rise_and_vanish_at_strength_zero(seed, strength):
    table = augment.color_table(np.random.default_rng(seed), strength)
    assert (np.diff(table.astype(int), axis=0) >= 0).all()
    plain = augment.color_table(np.random.default_rng(seed), 0.0)
    frames = np.random.default_rng(seed).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    np.testing.assert_array_equal(augment.apply_color(frames, plain), frames)
    np.testing.assert_array_equal(augment.apply_color(frames, table)[1, 2, 3], table[frames[1, 2, 3], range(3)])
