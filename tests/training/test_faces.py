"""Protects what a motion encoder is trained on: boxes, their place against the portrait's, and crops around them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from portrait_jax.face.boxes import box_triplet, detector_box
from portrait_jax.training.faces import (
    UNIT,
    cells_near,
    driving_crops,
    face_boxes,
    inner_landmarks,
    reading_error,
    reference_crops,
    triplets,
)


def test_boxes_are_those_of_the_animation():
    points = np.random.default_rng(0).uniform(100, 200, (2, 3, 478, 3)).astype(np.float32)
    np.testing.assert_allclose(face_boxes(jnp.asarray(points)), detector_box(points), atol=1)


def test_triplets_are_those_of_the_animation():
    rng = np.random.default_rng(1)
    corners = rng.uniform(0, 20, (2, 3, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 30, (2, 3, 2))], axis=-1).astype(np.float32)
    references = boxes[:, 0] + 1
    expected = [[box_triplet(box, reference) for box in clip] for clip, reference in zip(boxes, references)]
    np.testing.assert_allclose(triplets(jnp.asarray(boxes), jnp.asarray(references)), expected, atol=1e-6)


def test_inner_landmarks_know_neither_place_nor_size():
    points = jnp.asarray(np.random.default_rng(0).uniform(8, 22, (2, 478, 3)), jnp.float32)
    inner = inner_landmarks(points)
    assert np.abs(inner).max() < 1 and inner.std() > 0.1
    np.testing.assert_allclose(inner_landmarks(3 * points + jnp.array([5.0, -7.0, 1.0])), inner, atol=1e-5)


def test_crops_follow_each_face_and_change_no_colour():
    """Two equal pictures, one of them moved together with its landmarks."""
    size, moved = 64, 12
    face = np.zeros((30, 30, 3), np.uint8)
    face[5:25, 5:25] = (200, 100, 50)
    points = np.random.default_rng(0).uniform(8, 22, (478, 3)).astype(np.float32)
    frames, landmarks = np.zeros((1, 2, size, size, 3), np.uint8), np.stack([points, points])[None]
    for i, left in enumerate((10, 10 + moved)):
        frames[0, i, 12:42, left : left + 30] = face
        landmarks[0, i, :, :2] += (left, 12)
    batch = {
        "frames": jnp.asarray(frames), "landmarks": jnp.asarray(landmarks),
        "reference": jnp.asarray(frames[:, 0]), "reference_landmarks": jnp.asarray(landmarks[:, 0]),
    }  # fmt: skip
    crops = jax.jit(driving_crops, static_argnums=2)(batch, jax.random.key(0), 22)
    np.testing.assert_allclose(crops[0, 0], crops[0, 1], atol=1e-3)
    np.testing.assert_allclose(crops[0, 0, 11, 11], np.array([200, 100, 50]) / 255, atol=1e-3)
    reference = jax.jit(reference_crops, static_argnums=2)(batch, jax.random.key(1), 22)
    np.testing.assert_allclose(reference, crops[:, 0], atol=1e-5)


def test_cells_near_points_are_those_around_them():
    points = jnp.array([[[[30.0, 20.0, 0.0], [50.0, 28.0, 0.0]]]])
    near = np.asarray(cells_near(points, 64, 8))[0, 0, ..., 0]
    assert near.shape == (8, 8)
    row, column = np.unravel_index(near.argmax(), near.shape)
    assert (row, column) in {(2, 4), (2, 5), (3, 4), (3, 5)}
    x, y = (np.arange(8) + 0.5) * 8 - 40, (np.arange(8) + 0.5) * 8 - 24
    expected = np.exp(-((x / 10) ** 2)[None] / 2 - ((y / 4) ** 2)[:, None] / 2)
    np.testing.assert_allclose(near, expected, atol=1e-6)


def test_points_that_are_one_still_have_a_cell():
    assert np.asarray(cells_near(jnp.full((1, 1, 5, 2), 20.0), 64, 8)).max() > 0.5


def test_a_reading_is_right_in_units():
    moved = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 5, 2)), jnp.float32)
    np.testing.assert_allclose(reading_error((moved / UNIT).reshape(2, 3, 10), moved), 0, atol=1e-5)
    np.testing.assert_allclose(reading_error(jnp.zeros((2, 3, 10)), moved), np.abs(moved) / UNIT, rtol=1e-5)
