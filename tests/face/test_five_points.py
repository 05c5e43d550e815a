"""The similarity of five points is recovered, and a face is laid on the template."""

import numpy as np

from portrait_jax.face.five_points import TEMPLATE, similarity, template_face


def test_a_similarity_is_recovered():
    turn, shift = np.array([[0.6, -0.8], [0.8, 0.6]]) * 2.5, np.array([30.0, -4.0])
    matrix = similarity(TEMPLATE, TEMPLATE @ turn.T + shift)
    np.testing.assert_allclose(matrix, np.column_stack([turn, shift]), atol=1e-4)


def test_a_shifted_face_is_shifted_back_and_what_is_missing_is_black():
    image = np.random.default_rng(0).integers(1, 256, (112, 112, 3), dtype=np.uint8)
    np.testing.assert_array_equal(template_face(image, TEMPLATE), image)
    made = template_face(image, TEMPLATE + np.array([10, 0], np.float32))
    assert np.abs(made[:, :102].astype(int) - image[:, 10:]).max() <= 1 and not made[:, 103:].any()
