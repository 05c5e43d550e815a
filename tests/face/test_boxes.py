"""Face boxes: triplets that say where a face went, squares that stay in the picture, tracks that do not tremble."""

import numpy as np
import pytest

from portrait_jax.errors import ShapeError
from portrait_jax.face.boxes import (
    Square,
    box_triplet,
    cut,
    motion_crop,
    motion_track,
    portrait_crop,
    portrait_square,
    scaled_square,
    smoothed,
    tracked_boxes,
)


def test_a_triplet_says_down_right_and_size_in_the_references_sizes():
    reference = np.array([10.0, 10, 30, 20])
    np.testing.assert_allclose(box_triplet(reference, reference), (0.0, 0.0, 1.0))
    np.testing.assert_allclose(box_triplet(reference + (10, 20, 10, 20), reference), (1.0, 0.5, 1.0))
    np.testing.assert_allclose(box_triplet(np.array([0.0, 5, 40, 25]), reference), (0.0, 0.0, 2.0))


def test_a_square_that_leaves_the_image_is_moved_or_padded():
    inside = portrait_square(np.array([40.0, 40, 60, 60]), (100, 100))
    assert inside == Square(inside.box, 0) and inside.box.tolist() == [30, 30, 70, 70]
    assert portrait_square(np.array([0.0, 40, 20, 60]), (100, 100)).box.tolist() == [0, 30, 40, 70]
    assert portrait_square(np.array([0.0, 0, 90, 90]), (100, 100)).padding == 45


def test_a_scaled_square_that_leaves_the_image_is_the_box():
    box = np.array([0.0, 10, 20, 20])
    np.testing.assert_array_equal(scaled_square(box, (50, 50)), box)
    np.testing.assert_allclose(scaled_square(box + (15, 15, 15, 15), (60, 60)), [14, 19, 36, 41])


def test_smoothing_keeps_a_steady_track_and_flattens_trembling():
    steady = np.full((30, 2), 7.0, np.float32)
    np.testing.assert_allclose(smoothed(steady), steady, rtol=1e-6)
    trembling = steady + np.where(np.arange(30) % 2, 1.0, -1.0)[:, None].astype(np.float32)
    assert np.abs(smoothed(trembling) - 7).max() < 0.2


def test_tracked_boxes_keep_their_size_inside_the_image():
    boxes = tracked_boxes(np.array([[0.0, 50], [50, 50], [99, 99]]), (20, 10), (100, 100))
    np.testing.assert_array_equal(boxes[:, 2:] - boxes[:, :2], [[20, 10]] * 3)
    assert boxes.min() >= 0 and boxes.max() <= 99


def test_a_clips_track_has_one_even_size_and_follows_the_face():
    boxes = np.array([[20.0 + i, 30, 41 + i, 50] for i in range(20)])
    track = motion_track(boxes, (100, 100))
    widths = track[:, 2:] - track[:, :2]
    np.testing.assert_allclose(widths, [[22, 22]] * 20, atol=1e-4)
    assert (np.diff(track[:, 0]) > 0).all()
    assert motion_crop(np.zeros((100, 100, 3), np.uint8), track[0], 32).shape == (32, 32, 3)


def test_a_crop_of_a_plain_image_is_plain_and_padding_is_black():
    image = np.full((40, 40, 3), 200, np.uint8)
    assert (portrait_crop(image, Square(np.array([0.0, 0, 40, 40]), 0), 16) == 200).all()
    padded = portrait_crop(image, Square(np.array([0.0, 0, 80, 80]), 20), 16)
    assert (padded[0] == 0).all() and (padded[8, 8] == 200).all()


def test_a_box_without_pixels_is_refused():
    with pytest.raises(ShapeError, match="holds no pixel"):
        cut(np.zeros((10, 10, 3), np.uint8), np.array([20.0, 20, 30, 30]))
