"""Loss masks cover the drawn landmarks and the face on the latent grid."""

import numpy as np
import pytest

from portrait_jax.errors import ShapeError
from portrait_jax.face.masks import expression_mask, oval_cells, oval_mask, polygon_mask
from portrait_jax.face.topology import EXPRESSION_POINTS, JAW
from tests.face.faces import make_face, placed

FACE = placed(make_face(), scale=11.0, at=(128.0, 128.0))


def test_every_drawn_landmark_lies_in_the_expression_mask():
    mask = expression_mask(FACE, 256, 256)
    cells = (FACE[list(EXPRESSION_POINTS), :2] // 8).astype(int)
    assert mask.shape == (32, 32, 1) and mask.dtype == np.float32 and set(np.unique(mask)) == {0, 1}
    assert mask[cells[:, 1], cells[:, 0]].all() and mask.mean() < 0.2


def test_discs_scale_with_the_image():
    small = expression_mask(FACE / 2, 128, 128, latent_factor=4)
    large = expression_mask(FACE, 256, 256, latent_factor=8)
    assert np.abs(small - large).mean() < 0.02


def test_the_cells_of_the_oval_are_the_oval_on_the_latent_grid():
    cells, oval = oval_cells(FACE, 256, 256), oval_mask(FACE, 256, 256)
    assert abs(cells.mean() - oval.mean()) < 0.02


def test_the_oval_holds_the_forehead_that_the_jaw_line_leaves_out():
    oval, jaw = oval_mask(FACE, 256, 256), polygon_mask(FACE, JAW, 256, 256)
    assert oval.sum() > jaw.sum() > 0.5 * oval.sum()


def test_a_face_outside_the_image_gives_empty_masks():
    away = FACE + np.array([1e6, 0, 0], np.float32)
    assert not expression_mask(away, 64, 64).any() and not oval_cells(away, 64, 64).any()


def test_a_size_that_does_not_divide_is_refused():
    with pytest.raises(ShapeError, match="100×256"):
        expression_mask(FACE, 100, 256)
