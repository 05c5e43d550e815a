"""Protects: what HunyuanPortrait is trained on is what drives it: crops, levels, aligned faces and angles of the animation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.face import measures
from portrait_jax.face.crops import face_box
from portrait_jax.face.five_points import five_points, template_face
from portrait_jax.face.intensity import IntensityConfig, motion_levels
from portrait_jax.face.squares import driving_crops, face_square, widened_square
from portrait_jax.training import aligned
from tests.animation import scene

SIDE = 32


@pytest.fixture(scope="module")
def clip() -> dict[str, np.ndarray]:
    return scene.make_clip()


def test_squares_are_those_of_the_animation(clip):
    points, boxes = five_points(clip["landmarks"]), face_box(clip["landmarks"])
    batch = jnp.asarray(clip["landmarks"])[None]
    np.testing.assert_allclose(aligned.five(batch)[0], points, atol=1e-3)
    np.testing.assert_allclose(aligned.oval_boxes(batch)[0], boxes, atol=1e-4)
    found = aligned.face_squares(jnp.asarray(points)[None], jnp.asarray(boxes[:1]))[0]
    expected = np.stack([face_square(frame, boxes[0]) for frame in points])
    np.testing.assert_allclose(found, expected, atol=2.1)  # Whole pixels there: middle and half are cut down.


@pytest.mark.parametrize("box", [(36, 12, 56, 40), (0, 0, 20, 30), (80, 40, 90, 60), (10, 10, 80, 50)])
def test_head_squares_are_those_of_the_animation(box):
    given = np.array([box], np.float32)
    expected = widened_square(given[0], 1.0, (60, 90))
    np.testing.assert_allclose(aligned.head_squares(jnp.asarray(given), (60, 90))[0], expected, atol=0.51)


def test_crops_show_what_the_animation_sees(clip):
    points, boxes = five_points(clip["landmarks"]), face_box(clip["landmarks"])
    frames = jnp.asarray(clip["frames"], jnp.float32)[None] / 255
    faces = aligned.face_squares(jnp.asarray(points)[None], jnp.asarray(boxes[:1]))
    heads = jnp.broadcast_to(aligned.head_squares(jnp.asarray(boxes[:1]), (scene.SIZE,) * 2)[:, None], faces.shape)
    run = jax.jit(aligned.cut, static_argnums=2)
    for name, squares in (("faces", faces), ("heads", heads)):
        found = run(frames, squares, SIDE)[0]
        expected = np.stack([driving_crops(image, place, boxes[0], SIDE)[name]
                             for image, place in zip(clip["frames"], points, strict=True)])  # fmt: skip
        still = np.abs(expected[:1].astype(float) - expected).mean() / 255
        error = np.abs(np.asarray(found) - expected / 255).mean()
        assert error < 0.04, f"{name}: {error:.3f}, where frames differ by {still:.3f}"


def test_beyond_the_picture_a_crop_is_black():
    white = jnp.ones((1, 1, 8, 8, 3))
    crop = jax.jit(aligned.cut, static_argnums=2)(white, jnp.array([[[-8.0, 0.0, 8.0, 16.0]]]), 4)[0, 0]
    assert np.asarray(crop[:, :, 0]).tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("rule", ["released", "paper"])
def test_levels_are_those_of_the_animation(clip, rule):
    config = IntensityConfig(rule)
    points = five_points(clip["landmarks"])
    still = np.repeat(points[:1], len(points), axis=0)
    head, expression = aligned.levels(jnp.asarray(np.stack([points, still])), config)
    assert (head.shape, head.dtype) == ((2, scene.FRAMES), jnp.int32)
    assert (head[0, 0], expression[0, 0]) == motion_levels(points, config)
    assert not head[1].any() and not expression[1].any() and expression[0].all()


def test_aligned_faces_are_those_of_the_animation(clip):
    points = five_points(clip["landmarks"][:2])
    frames = clip["frames"][:2]
    found = jax.jit(aligned.template_faces, static_argnums=2)(jnp.asarray(frames, jnp.float32) / 255, points, SIDE)
    for one, image, place in zip(np.asarray(found), frames, points, strict=True):
        np.testing.assert_allclose(one * 255, template_face(image, place, SIDE), atol=8)
        assert np.abs(one * 255 - template_face(image, place, SIDE)).mean() < 0.6


def test_angles_are_those_that_are_measured(clip):
    skew = np.random.default_rng(0).normal(0, 0.15, (6, 3, 3))
    skew = skew - np.swapaxes(skew, 1, 2)
    turns = np.linalg.solve(np.eye(3) - skew, np.eye(3) + skew)  # Cayley: rotations.
    turned = (clip["landmarks"][0] @ turns).astype(np.float32)
    found = np.asarray(jax.jit(aligned.head_angles)(jnp.asarray(turned)))
    np.testing.assert_allclose(found, measures.head_pose(turned), atol=0.05)
    assert np.ptp(found, axis=0).min() > 10, "the head hardly turns, so little was compared"
