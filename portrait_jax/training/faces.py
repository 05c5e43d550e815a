"""What a motion encoder learns from, cut out of a training batch inside the step: face crops, and where the faces are.

A batch has `frames` u8 "b f H W 3" and `reference` u8 "b H W 3", with `landmarks` "b f 478 3" and `reference_landmarks`
"b 478 3" in their pixels.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp

from portrait_jax.face.topology import DETECTED, EXPRESSION_POINTS, LOWER, OVAL, index
from portrait_jax.training.augment import STILL, AugmentConfig, Boxes, augment
from portrait_jax.typing import Array, Float, PRNGKeyArray

Batch = Mapping[str, Array]
UNIT = 0.05
"""Of landmarks that are read off latents, in sides of the face's box: about what they move, so that latents get unit size."""


def face_boxes(landmarks_px: Float[Array, "*n 478 3"]) -> Float[Array, "*n 4"]:
    """`face.boxes.detector_box` of a batch, without its rounding: (left, top, right, bottom) around each face."""
    oval = landmarks_px[..., index(OVAL), :2]
    low, high = oval.min(-2), oval.max(-2)
    longer = (high - low).max(-1, keepdims=True)
    middle, half = (low + high) / 2 + longer * jnp.array([0.0, LOWER]), DETECTED * longer / 2
    return jnp.concatenate([middle - half, middle + half], axis=-1)


def triplets(boxes_px: Boxes, references_px: Float[Array, "b 4"]) -> Float[Array, "b f 3"]:
    """`face.boxes.box_triplet` of a batch: how far below and right of the reference's faces are, and their size."""

    def middle(boxes: Array) -> Array:
        return (boxes[..., :2] + boxes[..., 2:]) / 2

    def longer(boxes: Array) -> Array:
        return (boxes[..., 2:] - boxes[..., :2]).max(-1, keepdims=True)

    reference = references_px[:, None]
    size = longer(reference)
    moved = (middle(boxes_px) - middle(reference)) / size
    return jnp.concatenate([moved[..., ::-1], longer(boxes_px) / size], axis=-1)


def inner_landmarks(landmarks_px: Float[Array, "*n 478 3"]) -> Float[Array, "*n 478 2"]:
    """Landmarks as they lie in the face's own box: from its middle, in its sides. Where the face is and how large is gone."""
    boxes = face_boxes(landmarks_px)
    low, high = boxes[..., None, :2], boxes[..., None, 2:]
    return (landmarks_px[..., :2] - (low + high) / 2) / (high - low)


def reading_error(read: Float[Array, "b f m"], moved: Float[Array, "b f n 2"]) -> Float[Array, "b f n 2"]:
    """Absolute error, in `UNIT`s, of how landmarks moved (of `inner_landmarks`), where `read`, n pairs, says how they did."""
    return jnp.abs(read.reshape(moved.shape) - moved / UNIT)


def motion_reading(read: Float[Array, "b f m"], batch: Batch) -> Float[Array, ""]:
    """Mean absolute error, in `UNIT`s, of how landmarks moved in the face's box from the portrait to each frame, where `read` says
    how they did; landmarks of the expression count once more."""
    moved = inner_landmarks(batch["landmarks"]) - inner_landmarks(batch["reference_landmarks"])[:, None]
    error = reading_error(read, moved)
    return error.mean() + error[..., index(EXPRESSION_POINTS), :].mean()


def cells_near(points_px: Float[Array, "b f n d"], size: int, cells: int) -> Float[Array, "b f h w 1"]:
    """1 at the middle of what the points bound, falling to 0 around it, on a grid of `cells`² over `size`² pixels.

    A Gaussian whose deviations are half the points' extent, but at least half a cell.
    """
    low, high = points_px[..., :2].min(-2), points_px[..., :2].max(-2)
    middle, spread = (low + high) / 2, jnp.maximum((high - low) / 2, size / cells / 2)
    at = (jnp.arange(cells) + 0.5) * size / cells
    x, y = (jnp.exp(-(((at - middle[..., i, None]) / spread[..., i, None]) ** 2) / 2) for i in (0, 1))
    return (y[..., :, None] * x[..., None, :])[..., None]


def driving_crops(batch: Batch, rng: PRNGKeyArray, size: int, how: AugmentConfig = STILL) -> Float[Array, "b f s s 3"]:
    """Face-centred crops of the frames, 0..1, changed at random by `how`."""
    return augment(rng, batch["frames"].astype(jnp.float32) / 255, face_boxes(batch["landmarks"]), size, how)


def reference_crops(batch: Batch, rng: PRNGKeyArray, size: int) -> Float[Array, "b s s 3"]:
    """Face-centred crops of the portraits, 0..1, as they are."""
    portrait = batch["reference"][:, None].astype(jnp.float32) / 255
    return augment(rng, portrait, face_boxes(batch["reference_landmarks"])[:, None], size, STILL)[:, 0]


def batch_triplets(batch: Batch) -> Float[Array, "b f 3"]:
    """Where the frames' faces are and how large, against the portraits' (`triplets`)."""
    return triplets(face_boxes(batch["landmarks"]), face_boxes(batch["reference_landmarks"]))
