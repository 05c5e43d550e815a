"""Squares at the picture's edges, crops that reach beyond it, and what a paste leaves alone."""

import numpy as np
import pytest

from portrait_jax.errors import ShapeError
from portrait_jax.face.intensity import RELEASED
from portrait_jax.face.squares import cut_padded, driving_crops, driving_levels, face_square, paste, widened_square

IMAGE = np.random.default_rng(0).integers(1, 256, (60, 90, 3), dtype=np.uint8)
POINTS = np.array([[40, 20], [52, 20], [46, 27], [41, 34], [51, 34]], np.float32)
BOX = np.array([36.0, 12.0, 56.0, 40.0])


@pytest.mark.parametrize("box", [(36, 12, 56, 40), (0, 0, 20, 30), (80, 40, 90, 60), (10, 10, 80, 50)])
def test_a_square_stays_in_the_picture_and_holds_the_faces_middle(box):
    left, top, right, bottom = widened_square(np.array(box, float), 1.0, IMAGE.shape[:2])
    assert right - left == bottom - top > 0
    assert left >= 0 and top >= 0 and right <= 90 and bottom <= 60
    assert left <= (box[0] + box[2]) / 2 <= right and top <= (box[1] + box[3]) / 2 <= bottom


def test_beyond_the_picture_a_crop_is_black():
    crop = cut_padded(IMAGE, np.array([-5, 50, 15, 70]))
    np.testing.assert_array_equal(crop[:10, 5:], IMAGE[50:, :15])
    assert not crop[:, :5].any() and not crop[10:].any()
    assert not cut_padded(IMAGE, np.array([200, 0, 210, 10])).any()
    with pytest.raises(ShapeError, match="is empty"):
        cut_padded(IMAGE, np.array([5, 5, 5, 9]))


def test_a_face_crop_follows_the_points_by_little_more_than_half():
    moved = face_square(POINTS + 10, BOX) - face_square(POINTS, BOX)
    assert (np.abs(moved - 5.5) <= 1.5).all()


def test_every_driving_frame_has_its_crops_and_levels():
    made = [
        driving_crops(IMAGE, points, BOX, side) for points, side in ((POINTS, 256), (POINTS + 9, 256), (POINTS, 32))
    ]
    assert [made[i]["faces"].shape for i in range(3)] == [(256, 256, 3), (256, 256, 3), (32, 32, 3)]
    np.testing.assert_array_equal(made[0]["heads"], made[1]["heads"])
    assert (made[0]["faces"] != made[1]["faces"]).any()
    levels = driving_levels(np.stack([POINTS, POINTS + 1]), RELEASED)
    assert {name: level.shape for name, level in levels.items()} == {"head_level": (2,), "expression_level": (2,)}


def test_a_paste_changes_the_middle_and_leaves_edges_and_surroundings():
    square = np.array([20, 5, 70, 55])
    frame = np.full((25, 25, 3), 200, np.uint8)
    out = paste(frame, IMAGE, square)
    assert (out[20:40, 40:50] == 200).all()
    np.testing.assert_array_equal(out[5], IMAGE[5])
    outside = np.ones(IMAGE.shape[:2], bool)
    outside[5:55, 20:70] = False
    np.testing.assert_array_equal(out[outside], IMAGE[outside])
