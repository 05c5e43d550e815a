"""The released drawing leaves out what the release left out; the smooth one shows sub-pixel motion."""

import cv2
import numpy as np
import pytest

from portrait_jax.errors import ConfigError
from portrait_jax.face.drawing import DOTS, STYLES, draw_dots, draw_landmarks
from portrait_jax.face.topology import JAW, LEFT_PUPIL, PUPIL_COLOUR
from tests.face.faces import make_face, placed


def test_released_drawing_drops_what_lies_outside():
    face = placed(make_face(), at=(500.0, 128.0))
    assert not draw_landmarks(face, 256, 256, "released").any()


@pytest.mark.parametrize("at", [(-3000.0, 128.0), (0.0, 0.0), (1e7, -1e7)])
@pytest.mark.parametrize("style", sorted(STYLES))
def test_faces_far_outside_or_at_the_border_are_drawn_without_error(style, at):
    assert draw_landmarks(placed(make_face(), at=at), 128, 96, style).shape == (128, 96, 3)


@pytest.mark.parametrize("size", [64, 128, 256, 512])
def test_both_styles_put_the_same_parts_in_the_same_places(size):
    face = placed(make_face(mouth=2.0), scale=size / 22, at=(size / 2, size / 2))
    released, smooth = (draw_landmarks(face, size, size, style).any(-1) for style in ("released", "smooth"))
    near = cv2.dilate(smooth.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    if size == 512:  # At small sizes the released pupils, which do not scale, cover more.
        assert (released & ~near).sum() == 0
    assert (released & near).sum() > 0.8 * released.sum() * min(1, size / 256)


def test_smooth_drawing_shows_motion_of_a_quarter_pixel_where_it_lies():
    face = placed(make_face(), scale=5.0, at=(64.0, 64.0))
    moved = face + np.array([0.25, 0, 0], np.float32)

    def pupil_centre(points):
        red = draw_landmarks(points, 128, 128, "smooth").astype(float)
        weight = np.clip(red[..., 0] - red[..., 1] - red[..., 2], 0, None)[:, 64:]
        return (weight.sum(0) * (np.arange(64, 128) + 0.5)).sum() / weight.sum()

    assert pupil_centre(face) == pytest.approx(face[LEFT_PUPIL, 0], abs=0.25)
    assert pupil_centre(moved) - pupil_centre(face) == pytest.approx(0.25, abs=0.08)


def test_pupils_are_drawn_over_the_lids():
    face = placed(make_face(), scale=20.0, at=(256.0, 256.0))
    x, y = face[LEFT_PUPIL, :2].astype(int)
    seen = {style: tuple(draw_landmarks(face, 512, 512, style)[y, x]) == PUPIL_COLOUR for style in STYLES}
    assert seen == {style: style not in ("smooth_no_pupils", "smooth_plain") for style in STYLES}


def test_ablations_add_and_leave_out_what_their_names_say():
    face = placed(make_face(), scale=20.0, at=(256.0, 256.0))
    drawn = {style: draw_landmarks(face, 512, 512, style) for style in STYLES}
    x, y = face[JAW[13], :2].astype(int)  # the chin

    def near(style, x, y):
        return drawn[style][y - 3 : y + 4, x - 3 : x + 4].any()

    assert [style for style in STYLES if near(style, x, y)] == ["smooth_contour", "smooth_plain"]
    nose = face[5, :2].astype(int)
    assert [style for style in STYLES if near(style, *nose)] == ["smooth_plain"]
    same = (drawn["smooth_contour"] == drawn["smooth"]).all(axis=-1)
    assert 0.97 < same.mean() < 1


def test_an_unknown_style_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'smooth'"):
        draw_landmarks(placed(make_face()), 64, 64, "smoth")


def test_landmarks_that_are_not_finite_are_refused():
    face = placed(make_face())
    face[33, 0] = np.nan
    with pytest.raises(ValueError, match="finite"):
        draw_landmarks(face, 64, 64, "smooth")


def test_key_points_are_white_dots_where_the_landmarks_are():
    face = np.full((478, 2), -50.0)
    face[list(DOTS)] = [100.0, 60.0]
    image = draw_dots(face, 128, 256)
    rows, columns = np.nonzero(image[..., 0])
    assert image.shape == (128, 256, 3) and (image[59:61, 99:101] > 250).all()
    assert abs(rows.mean() + 0.5 - 60) < 0.1 and abs(columns.mean() + 0.5 - 100) < 0.1
    # Radius 1.5 at 256 pixels; OpenCV smooths the edge over a pixel more.
    assert 3 <= np.ptp(columns) <= 5
    assert not draw_dots(np.full((478, 3), -1e9), 64, 64).any()
