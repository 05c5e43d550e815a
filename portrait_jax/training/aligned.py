"""What HunyuanPortrait trains on, cut out of a training batch inside the step: crops of face and head, levels, aligned faces.

The same as `face.squares`, `face.intensity` and `face.five_points` make of a driving video, without their rounding. A batch has
`frames` u8 "b f H W 3" and `landmarks` "b f 478 3" in their pixels; what drives is read from `driving` where there is such a
thing: the same frames before their style was changed (`data.stylised`).
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from portrait_jax.face.five_points import FIVE_POINTS, TEMPLATE
from portrait_jax.face.intensity import RULES, IntensityConfig
from portrait_jax.face.measures import FRONTAL_FACE, RIGID_POINTS, RIGID_WEIGHTS
from portrait_jax.face.topology import OVAL, TOWARDS_BOX, index
from portrait_jax.training.augment import MARGIN, AugmentConfig, Boxes, Clips, augment, bilinear, pixel_grid
from portrait_jax.typing import Array, Float, Int, PRNGKeyArray

Points = Float[Array, "*n 5 2"]
Batch = Mapping[str, Array]

COLOURS = AugmentConfig(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1, scale=0.05, uneven=0.0, bend=0.0)
"""Of face crops in training (§3.5 names colours; the strengths and the slight change of size are ours)."""


# Of a batch


def driving_frames(batch: Batch) -> Clips:
    """The frames that what drives is read from, 0..1."""
    return batch.get("driving", batch["frames"]).astype(jnp.float32) / 255


def face_crops(batch: Batch, size: int) -> Float[Array, "b f s s 3"]:
    """The crops from which the expression is read, 0..1."""
    boxes = oval_boxes(batch["landmarks"][:, 0])
    return cut(driving_frames(batch), face_squares(five(batch["landmarks"]), boxes), size)


def head_crops(batch: Batch, size: int) -> Float[Array, "b f s s 3"]:
    """The wider crops from which the head's angles are read, 0..1; the same place in all frames of a clip."""
    frames = driving_frames(batch)
    height, width = frames.shape[2:4]
    squares = head_squares(oval_boxes(batch["landmarks"][:, 0]), (height, width))
    return cut(frames, jnp.broadcast_to(squares[:, None], (*frames.shape[:2], 4)), size)


def reference_crops(batch: Batch, size: int) -> Float[Array, "b s s 3"]:
    """The portraits' own faces, cut as a driver's first frame is; needs `reference` and `reference_landmarks`."""
    landmarks = batch["reference_landmarks"]
    squares = face_squares(five(landmarks)[:, None], oval_boxes(landmarks))
    return cut(batch["reference"][:, None].astype(jnp.float32) / 255, squares, size)[:, 0]


def recognised_faces(batch: Batch, rng: PRNGKeyArray, size: int) -> Float[Array, "b s s 3"]:
    """The aligned face of a random frame of each clip (§3.4), 0..1."""
    clips, frames = batch["frames"].shape[:2]
    chosen = jax.random.randint(rng, (clips,), 0, frames)

    def pick(x: Array) -> Array:
        return jnp.take_along_axis(x, chosen.reshape(-1, *[1] * (x.ndim - 1)), axis=1)[:, 0]

    images = pick(batch["frames"]).astype(jnp.float32) / 255
    return template_faces(images, five(pick(batch["landmarks"])), size)


def jittered(
    rng: PRNGKeyArray, faces_01: Float[Array, "b f s s 3"], config: AugmentConfig
) -> Float[Array, "b f s s 3"]:
    """Face crops in other colours and of slightly other size, alike for all frames of a clip: less of them says who it is."""
    side = faces_01.shape[2]
    edge = side / 2 * (1 - 1 / MARGIN)
    box = jnp.array([edge, edge, side - edge, side - edge])
    return augment(rng, faces_01, jnp.broadcast_to(box, (*faces_01.shape[:2], 4)), side, config)


# Of landmarks and pictures


def oval_boxes(landmarks_px: Float[Array, "*n 478 d"]) -> Float[Array, "*n 4"]:
    """`face.crops.face_box` of a batch."""
    oval = landmarks_px[..., index(OVAL), :2]
    return jnp.concatenate([oval.min(-2), oval.max(-2)], axis=-1)


def five(landmarks_px: Float[Array, "*n 478 d"]) -> Points:
    """`face.five_points.five_points` of a batch."""
    return jnp.stack([landmarks_px[..., index(points), :2].mean(-2) for points in FIVE_POINTS], axis=-2)


def face_squares(points_px: Float[Array, "b f 5 2"], boxes_px: Float[Array, "b 4"]) -> Boxes:
    """`face.squares.face_square` of a batch; `boxes_px` are the first frames'."""
    outer = jnp.concatenate([points_px.min(-2), points_px.max(-2)], axis=-1)
    edges = (1 - TOWARDS_BOX) * outer + TOWARDS_BOX * boxes_px[:, None]
    middle, half = (edges[..., :2] + edges[..., 2:]) / 2, (edges[..., 2:] - edges[..., :2]).max(-1, keepdims=True) / 2
    return jnp.concatenate([middle - half, middle + half], axis=-1)


def head_squares(boxes_px: Float[Array, "b 4"], image_size: tuple[int, int]) -> Float[Array, "b 4"]:
    """`face.squares.widened_square` of a batch, by all of the box's sides; `image_size` is (height, width)."""
    limit, sides = jnp.array([*image_size[::-1]] * 2, jnp.float32), boxes_px[:, 2:] - boxes_px[:, :2]
    wide = jnp.clip(boxes_px + jnp.concatenate([-sides, sides], axis=-1), 0, limit)
    lengths, middle = wide[:, 2:] - wide[:, :2], (wide[:, :2] + wide[:, 2:]) / 2
    slack = (lengths - lengths.min(-1, keepdims=True)) / 2
    middle = middle + jnp.clip((boxes_px[:, :2] + boxes_px[:, 2:]) / 2 - middle, -slack, slack)
    half = lengths.min(-1, keepdims=True) / 2
    return jnp.concatenate([middle - half, middle + half], axis=-1)


def cut(clips_01: Clips, squares_px: Boxes, size: int) -> Float[Array, "b f s s 3"]:
    """Squares of the frames at `size` pixels, black beyond the picture. Every pixel is the mean of four places, so that what is
    made half as large does not alias."""
    corner, side = squares_px[..., None, None, :2], (squares_px[..., 2:] - squares_px[..., :2])[..., None, None, :]
    points = corner + pixel_grid(2 * size) * side
    fine = visible(clips_01, points)
    return fine.reshape(*fine.shape[:2], size, 2, size, 2, 3).mean((3, 5))


def visible(clips_01: Clips, points_px: Float[Array, "b f _ _ 2"]) -> Float[Array, "b f _ _ 3"]:
    """The frames at these (x, y), 0 being the left (upper) edge; black beyond them."""
    edge = jnp.array(clips_01.shape[3:1:-1], jnp.float32)
    inside = ((points_px >= 0) & (points_px <= edge)).all(-1, keepdims=True)
    return jax.vmap(jax.vmap(bilinear))(clips_01, points_px) * inside


def levels(points_px: Float[Array, "b f 5 2"], config: IntensityConfig) -> tuple[Int[Array, "b f"], Int[Array, "b f"]]:
    """(head, expression): `face.intensity.motion_levels` of each clip as one stretch."""
    found = (factor * x for factor, x in zip(config.factors, RULES[config.rule](points_px), strict=True))
    one, other = (jnp.clip(x.astype(jnp.int32), 0, config.levels - 1)[:, None] for x in found)
    shape = points_px.shape[:2]
    return jnp.broadcast_to(one, shape), jnp.broadcast_to(other, shape)


def template_faces(images_01: Float[Array, "b h w 3"], points_px: Float[Array, "b 5 2"], size: int) -> Array:
    """`face.five_points.template_face` of a batch, "b size size 3" in 0..1."""
    target = np.asarray(TEMPLATE, np.float32) * (size / 112)
    middle, aim = points_px.mean(1), target.mean(0)
    a, b = ((x[..., 0] + 1j * x[..., 1]) for x in (points_px - middle[:, None], jnp.asarray(target - aim)))
    # A similarity is a complex factor, and so is its inverse.
    factor = (jnp.abs(a) ** 2).sum(-1) / (jnp.conj(a) * b).sum(-1)
    y, x = np.mgrid[:size, :size].astype(np.float32)
    turned = factor[:, None, None] * jnp.asarray((x - aim[0]) + 1j * (y - aim[1]))
    places = jnp.stack([turned.real, turned.imag], axis=-1) + middle[:, None, None]
    # Points count from the first pixel's middle here, as in the release.
    return visible(images_01[:, None], places[:, None] + 0.5)[:, 0]


def head_angles(landmarks_px: Float[Array, "*n 478 3"]) -> Float[Array, "*n 3"]:
    """`face.measures.head_pose` of a batch: yaw, pitch, roll in degrees."""
    target = landmarks_px[..., RIGID_POINTS, :]
    weights = jnp.asarray((RIGID_WEIGHTS / RIGID_WEIGHTS.sum())[:, None], jnp.float32)
    source = jnp.asarray(FRONTAL_FACE, jnp.float32)
    source = weights * (source - (weights * source).sum(0))
    centred = target - (weights * target).sum(-2, keepdims=True)
    left, _, right = jnp.linalg.svd(jnp.swapaxes(centred, -1, -2) @ source)
    # A rotation, never a mirror image.
    proper = jnp.ones((*left.shape[:-2], 3)).at[..., 2].set(jnp.sign(jnp.linalg.det(left @ right)))
    rotation = (left * proper[..., None, :]) @ right
    yaw = jnp.arctan2(rotation[..., 2, 0], rotation[..., 2, 2])
    pitch = jnp.arcsin(jnp.clip(-rotation[..., 2, 1], -1, 1))
    roll = jnp.arctan2(-rotation[..., 0, 1], rotation[..., 1, 1])
    return jnp.rad2deg(jnp.stack([yaw, pitch, roll], axis=-1))
