"""Crops contain the face, stay inside where they can, and move landmarks with the pixels."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from portrait_jax.errors import NoFaceError
from portrait_jax.face.crops import Crop, clip_crop, face_box, square_crop
from portrait_jax.face.topology import OVAL
from tests.face.faces import make_face, placed

side = st.integers(40, 900)
unit = st.floats(0, 1)


@given(side, side, unit, unit, unit, unit, st.floats(0, 2))
def test_a_crop_holds_the_box_and_lies_inside_if_it_can(height, width, a, b, c, d, margin):
    x0, x1, y0, y1 = (*sorted((a * width, b * width)), *sorted((c * height, d * height)))
    assume(x1 - x0 > 1 and y1 - y0 > 1)
    crop = square_crop(np.array([x0, y0, x1, y1]), margin, (height, width))
    assert crop.x0 <= x0 and crop.y0 <= y0 and crop.x0 + crop.size >= x1 and crop.y0 + crop.size >= y1
    longest = max(x1 - x0, y1 - y0)
    assert longest < crop.size <= longest * (1 + 2 * margin) + 4
    if crop.size <= min(height, width) - 2:
        assert crop.x0 >= 0 and crop.y0 >= 0 and crop.x0 + crop.size <= width and crop.y0 + crop.size <= height


@given(st.integers(-20, 60), st.integers(-20, 60), st.integers(16, 90), st.sampled_from([None, 16, 64]))
def test_landmarks_move_with_the_pixels(x0, y0, size, output):
    image = np.zeros((80, 70, 3), np.uint8)
    x, y = np.clip(x0 + size // 2, 4, 66), np.clip(y0 + size // 2, 4, 76)
    image[y - 3 : y + 3, x - 3 : x + 3] = 255
    assume(x0 + 3 <= x <= x0 + size - 3 and y0 + 3 <= y <= y0 + size - 3)
    crop = Crop(x0, y0, size)
    landmarks = np.tile(np.array([x, y, 1], np.float32), (478, 1))
    moved, pixels = crop.apply_landmarks(landmarks, output)[0], crop.apply(image, output)
    assert pixels.shape[0] == (output or size)
    weight = pixels[..., 0].astype(float)
    rows, columns = np.indices(weight.shape) + 0.5
    centre = ((weight * columns).sum() / weight.sum(), (weight * rows).sum() / weight.sum())
    np.testing.assert_allclose(moved[:2], centre, atol=0.6)
    assert moved[2] == pytest.approx((output or size) / size)


def test_the_part_beyond_the_image_repeats_its_edge():
    image = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    crop = Crop(-5, 0, 20).apply(image)
    np.testing.assert_array_equal(crop[:, :5], np.repeat(image[:, :1], 5, axis=1))
    np.testing.assert_array_equal(crop[:, 5:], image[:, :15])


def test_a_clip_gets_one_crop_that_holds_all_its_faces():
    faces = np.stack([placed(make_face(), at=(200.0 + 20 * i, 300.0)) for i in range(4)])
    crop = clip_crop(faces, 0.2, (800, 800))
    inside = crop.apply_landmarks(faces)[:, list(OVAL), :2]
    assert inside.min() >= 0 and inside.max() <= crop.size
    boxes = face_box(faces)
    assert boxes.shape == (4, 4) and (np.diff(boxes[:, 0]) == 20).all()


@pytest.mark.parametrize("box", [(500, 10, 600, 60), (10, 10, 10, 40), (np.nan, 0, 10, 10)])
def test_a_box_that_is_no_face_is_refused(box):
    with pytest.raises(NoFaceError, match="outside the 100×200 image"):
        square_crop(np.array(box, float), 0.5, (200, 100))
