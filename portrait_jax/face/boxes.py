"""Face boxes: where a face is relative to another, squares around it, steady tracks of it, and pictures cut by them.

A box is (left, top, right, bottom) in pixels. Source: X-NeMo (arXiv 2507.23143, section 3.3; bytedance/x-nemo-inference,
scripts/pose2vid_xnemo.py), whose rounding is kept: what its weights were trained on depends on it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from portrait_jax.errors import ShapeError
from portrait_jax.face.crops import face_box
from portrait_jax.face.topology import DETECTED, LOWER
from portrait_jax.media.image import resize
from portrait_jax.typing import Float, Image, UInt8

SCALE, MARGIN, SMOOTHING = 1.1, 0.5, 5.0
"""Of the square for motion; added on each side of the reference's box; frames (sigma) of the centre's smoothing."""

Box = Float[np.ndarray, "4"]


def detector_box(landmarks_px: Float[np.ndarray, "*f 478 d"]) -> Float[np.ndarray, "*f 4"]:
    """The box that BlazeFace, the release's detector, would find around a face whose landmarks are known.

    Whole pixels, towards the top left; negative ones are 0, as in the release.
    """
    oval = face_box(landmarks_px).astype(np.float64)
    longer = np.maximum(oval[..., 2] - oval[..., 0], oval[..., 3] - oval[..., 1])[..., None]
    middle, half = centre(oval) + longer * (0, LOWER), DETECTED * longer / 2
    return np.maximum(np.trunc(np.concatenate([middle - half, middle + half], axis=-1)), 0.0)


def sides(box: Box) -> tuple[float, float]:
    """Width and height."""
    return float(box[2] - box[0]), float(box[3] - box[1])


def centre(box: Float[np.ndarray, "*n 4"]) -> Float[np.ndarray, "*n 2"]:
    """(x, y) of the middle."""
    return (box[..., :2] + box[..., 2:]) / 2


def box_triplet(box: Box, reference: Box) -> Float[np.ndarray, "3"]:
    """How far below and right of the reference's a face is, and its size, all in sizes of the reference's.

    The paper names the horizontal distance first; the published weights were trained with the vertical one first.
    """
    size = max(sides(reference))
    x, y = (centre(box) - centre(reference)) / size
    return np.array([y, x, max(sides(box)) / size])


def scaled_square(box: Box, image_size: tuple[int, int], scale: float = SCALE) -> Box:
    """A square of `scale` times the longer side around the same centre; the box itself if that leaves the image.

    Args:
        image_size: (height, width) in pixels.
    """
    x, y = centre(box)
    half = scale * max(sides(box)) / 2
    square = np.array([x - half, y - half, x + half, y + half])
    return square if _overflow(square, image_size, last=1).max() <= 0 else np.asarray(box, float)


class Square(NamedTuple):
    """A square in an image with `padding` black pixels on every side; the box is in the padded image's pixels."""

    box: Float[np.ndarray, "4"]
    padding: int


def portrait_square(box: Box, image_size: tuple[int, int], margin: float = MARGIN) -> Square:
    """The square around a portrait's face: `margin` more of the longer side on both sides of it.

    Where it leaves the image it is moved inside if one move suffices; otherwise the image is padded.

    Args:
        image_size: (height, width) in pixels.
    """
    width, height = sides(box)
    x = max(margin, (2 * height - width) / (2 * width)) * width
    y = max(margin, (2 * width - height) / (2 * height)) * height
    square = np.trunc(np.asarray(box, float) + (-x, -y, x, y))
    for axis in (0, 1):
        before, after = _overflow(square, image_size)[[axis, axis + 2]]
        if (before > 0) != (after > 0):
            move = np.zeros(4)
            move[[axis, axis + 2]] = max(before, 0) - max(after, 0)
            if _overflow(square + move, image_size).max() <= 0:
                return Square(square + move, 0)
    padding = int(max(_overflow(square, image_size).max(), 0))
    return Square(square + padding, padding)


def tracked_boxes(
    centres: Float[np.ndarray, "f 2"], size: tuple[int, int], image_size: tuple[int, int]
) -> Float[np.ndarray, "f 4"]:
    """Boxes of one size (width, height) around centres, moved inside the image (height, width) where they leave it."""
    half = np.array(size) / 2
    boxes = np.concatenate([centres - half, centres + half], axis=-1)
    limit = np.array(image_size[::-1]) - 1
    move = np.maximum(-boxes[:, :2], 0) + np.minimum(limit - boxes[:, 2:], 0)
    return boxes + np.tile(move, 2)


def motion_track(boxes: Float[np.ndarray, "f 4"], image_size: tuple[int, int]) -> Float[np.ndarray, "f 4"]:
    """Where a clip's faces are cut out for motion: the first frame's scaled square, moved along the smoothed centres.

    Args:
        boxes: one detected face per frame.
        image_size: (height, width) in pixels.
    """
    width, height = (round(side) // 2 * 2 for side in sides(scaled_square(boxes[0], image_size)))
    return tracked_boxes(smoothed(centre(boxes)), (width, height), image_size)


def motion_crop(image: Image, box: Box, side: int = 224) -> UInt8[np.ndarray, "{side} {side} 3"]:
    """The face in a box as the motion encoder takes it."""
    return resize(cut(image, box), side, side)


def smoothed(track: Float[np.ndarray, "f d"], sigma: float = SMOOTHING) -> Float[np.ndarray, "f d"]:
    """Gaussian smoothing along time; the track is mirrored at its ends, which repeat."""
    return _gaussian(track.astype(np.float64), sigma, 0, "symmetric").astype(np.float32)


def cut(image: Image, box: Box) -> UInt8[np.ndarray, "_ _ 3"]:
    """The pixels of a box, its corners truncated to whole ones; raises ShapeError if there are none."""
    left, top, right, bottom = (int(value) for value in box)
    pixels = image[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    if pixels.size == 0:
        raise ShapeError(
            f"the box {(left, top, right, bottom)} holds no pixel of a {image.shape[1]}×{image.shape[0]} image"
        )
    return pixels


def portrait_crop(image: Image, square: Square, side: int) -> UInt8[np.ndarray, "{side} {side} 3"]:
    """Cuts a portrait's square out and resizes it linearly, blurred before shrinking (scikit-image's `resize`)."""
    padding = square.padding
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    pixels = cut(padded, square.box).astype(np.float64) / 255
    for axis in (0, 1):
        pixels = _resized(pixels, side, axis)
    return np.rint(pixels * 255).astype(np.uint8)


def _overflow(box: Box, image_size: tuple[int, int], last: int = 0) -> np.ndarray:
    """By how many pixels each edge lies outside; `last` 1 lets the far edges reach the last pixel's corner only."""
    height, width = image_size
    return np.array([-box[0], -box[1], box[2] - (width - last), box[3] - (height - last)])


def _gaussian(x: np.ndarray, sigma: float, axis: int, mode: str) -> np.ndarray:
    """Weights out to four sigmas."""
    reach = int(4 * sigma + 0.5)
    if not reach:
        return x
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    padding = [(0, 0)] * x.ndim
    padding[axis] = (reach, reach)
    padded = np.pad(x, padding, mode=mode)  # type: ignore[call-overload]  # numpy lists its modes one by one
    total = np.zeros_like(x)
    for i, tap in enumerate(taps / taps.sum()):
        total += tap * np.take(padded, np.arange(i, i + x.shape[axis]), axis)
    return total


def _resized(x: np.ndarray, length: int, axis: int) -> np.ndarray:
    """One axis, linearly; beyond the ends it is mirrored without repeating them."""
    old = x.shape[axis]
    x = _gaussian(x, max(0.0, (old / length - 1) / 2), axis, "reflect")
    place = (np.arange(length) + 0.5) * old / length - 0.5
    place = np.abs(place)
    place = np.where(place > old - 1, 2 * (old - 1) - place, place)
    low = np.clip(place.astype(int), 0, max(old - 2, 0))
    share = (place - low).reshape([-1 if i == axis else 1 for i in range(x.ndim)])
    return (1 - share) * np.take(x, low, axis) + share * np.take(x, np.minimum(low + 1, old - 1), axis)
