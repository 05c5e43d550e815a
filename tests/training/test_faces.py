"""Protects what a motion encoder is trained on: boxes, their place against the portrait's, and crops around them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from portrait_jax.face.boxes import box_triplet
from portrait_jax.training.faces import driving_crops, face_boxes, reference_crops, triplets


def test_a_box_holds_all_landmarks_and_touches_the_outermost():
    points = np.random.default_rng(0).uniform(0, 64, (2, 3, 478, 3)).astype(np.float32)
    boxes = face_boxes(jnp.asarray(points))
    np.testing.assert_array_equal(boxes[..., :2], points[..., :2].min(-2))
    np.testing.assert_array_equal(boxes[..., 2:], points[..., :2].max(-2))


def test_triplets_are_those_of_the_animation():
    rng = np.random.default_rng(1)
    corners = rng.uniform(0, 20, (2, 3, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 30, (2, 3, 2))], axis=-1).astype(np.float32)
    references = boxes[:, 0] + 1
    expected = [[box_triplet(box, reference) for box in clip] for clip, reference in zip(boxes, references)]
    np.testing.assert_allclose(triplets(jnp.asarray(boxes), jnp.asarray(references)), expected, atol=1e-6)


def test_crops_centre_on_each_face_and_a_still_crop_changes_no_colour():
    size = 64
    frames, landmarks = np.zeros((1, 2, size, size, 3), np.uint8), np.zeros((1, 2, 478, 3), np.float32)
    for i, left in enumerate((8, 30)):
        frames[0, i, 10:31, left : left + 21] = (200, 100, 50)
        landmarks[0, i, :, :2] = np.random.default_rng(i).uniform(10.5, 30.5, (478, 1)) + [left - 10, 0]
        landmarks[0, i, 0, :2], landmarks[0, i, 1, :2] = (left, 10), (left + 21, 31)
    batch = {
        "frames": jnp.asarray(frames), "landmarks": jnp.asarray(landmarks),
        "reference": jnp.asarray(frames[:, 0]), "reference_landmarks": jnp.asarray(landmarks[:, 0]),
    }  # fmt: skip
    crops = driving_crops(batch, jax.random.key(0), 22)
    np.testing.assert_allclose(crops[0, 0], crops[0, 1], atol=1e-3)
    np.testing.assert_allclose(
        crops[0, :, 5:17, 5:17], np.broadcast_to(np.array([200, 100, 50]) / 255, (2, 12, 12, 3)), atol=1e-3
    )
    np.testing.assert_array_equal(reference_crops(batch, jax.random.key(1), 22), crops[:, 0])
