"""Squares around faces as HunyuanPortrait's release cuts them, and generated pictures put back where they were cut from.

A box is (left, top, right, bottom) in pixels. Source: Tencent-Hunyuan/HunyuanPortrait, src/dataset/test_preprocess.py and
inference.py, whose rounding is kept. Its detector (YOLOv5-face: a box and five points) is not here: MediaPipe stands in with the
box around its face oval and `face.five_points`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from portrait_jax.errors import ShapeError
from portrait_jax.face.intensity import IntensityConfig, frame_levels
from portrait_jax.face.topology import TOWARDS_BOX
from portrait_jax.media.image import resize
from portrait_jax.typing import Float, Image, Int, UInt8

FACE_SIDE, PORTRAIT_SIDE = 256, 512
"""Pixels of the release's driving crops, and of its portraits."""
SOFT = 0.1
"""Share of a picture's sides over which it fades into its surroundings."""

Box = Float[np.ndarray, "4"] | Int[np.ndarray, "4"]


def widened_square(box: Box, ratio: float, image_size: tuple[int, int]) -> Int[np.ndarray, "4"]:
    """The largest square in a box widened by `ratio` of its sides on each side and cut at the image's edges.

    Along the longer side it is as near to the face as it can be.

    Args:
        image_size: (height, width) in pixels.
    """
    box, limit = np.asarray(box, float), np.tile(image_size[::-1], 2)
    sides = box[2:] - box[:2]
    wide = np.clip(box + ratio * np.concatenate([-sides, sides]), 0, limit)
    lengths, middle = wide[2:] - wide[:2], (wide[:2] + wide[2:]) / 2
    slack = (lengths - lengths.min()) / 2
    middle = middle + np.clip((box[:2] + box[2:]) / 2 - middle, -slack, slack)
    half = lengths.min() / 2
    return np.rint(np.concatenate([middle - half, middle + half])).astype(np.int64)


def face_square(points_px: Float[np.ndarray, "5 2"], box: Box) -> Int[np.ndarray, "4"]:
    """The square of a face crop, from brows to mouth; it may reach beyond the image. `box` is the clip's, of its first frame."""
    outer = np.concatenate([points_px.min(0), points_px.max(0)])
    edges = (1 - TOWARDS_BOX) * outer + TOWARDS_BOX * np.asarray(box, float)
    x, y = ((edges[:2] + edges[2:]) / 2).astype(np.int64)
    half = int((edges[2:] - edges[:2]).max()) // 2
    return np.array([x - half, y - half, x + half, y + half])


def cut_padded(image: Image, square: Int[np.ndarray, "4"]) -> UInt8[np.ndarray, "_ _ 3"]:
    """The pixels of a square, black beyond the image; raises ShapeError if it holds none."""
    left, top, right, bottom = (int(value) for value in square)
    if left >= right or top >= bottom:
        raise ShapeError(f"the square {(left, top, right, bottom)} is empty; the face is too small")
    height, width = image.shape[:2]
    out = np.zeros((bottom - top, right - left, 3), np.uint8)
    rows, columns = slice(max(top, 0), min(bottom, height)), slice(max(left, 0), min(right, width))
    inside = image[rows, columns]
    if inside.size:
        out[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = inside
    return out


class Source(NamedTuple):
    """A portrait as the system sees it, and where it was cut from."""

    image: UInt8[np.ndarray, "s s 3"]
    square: Int[np.ndarray, "4"]
    """In the whole picture; `paste` puts results there."""


def source_crop(image: Image, box: Box, side: int = PORTRAIT_SIDE) -> Source:
    """The square around a portrait's face, at `side` pixels."""
    square = widened_square(box, 1.0, image.shape[:2])
    return Source(resize(cut_padded(image, square), side, side, "bicubic"), square)


def head_crop(
    image: Image, square: Int[np.ndarray, "4"], side: int = FACE_SIDE
) -> UInt8[np.ndarray, "{side} {side} 3"]:
    """The wide crop from which the head's angles are read; `square` is the first frame's `widened_square`, the same for all."""
    wide = resize(cut_padded(image, square), 2 * side, 2 * side, "bicubic")
    return resize(wide, side, side, "bilinear")


def face_crop(
    image: Image, points_px: Float[np.ndarray, "5 2"], box: Box, side: int = FACE_SIDE
) -> UInt8[np.ndarray, "{side} {side} 3"]:
    """The crop from which the expression is read."""
    return resize(cut_padded(image, face_square(points_px, box)), side, side, "bilinear")


def driving_crops(
    image: Image, points_px: Float[np.ndarray, "5 2"], box: Box, side: int = FACE_SIDE
) -> dict[str, np.ndarray]:
    """What is seen of one driving frame: `faces` and `heads`, u8 "side side 3".

    Args:
        points_px: the frame's five points.
        box: of the face in the clip's first frame, whose pictures are all of one size.
    """
    square = widened_square(box, 1.0, image.shape[:2])
    return {"faces": face_crop(image, points_px, box, side), "heads": head_crop(image, square, side)}


def driving_levels(points_px: Float[np.ndarray, "f 5 2"], config: IntensityConfig) -> dict[str, np.ndarray]:
    """How much the face moves, for every frame of a clip: `head_level` and `expression_level`, int "f"."""
    head, expression = frame_levels(points_px, config=config)
    return {"head_level": head, "expression_level": expression}


def soft_mask(height: int, width: int) -> Float[np.ndarray, "{height} {width} 1"]:
    """1 in the middle, falling to 0 at the edges over a tenth of each side."""

    def ramp(length: int) -> np.ndarray:
        line, over = np.ones(length), int(SOFT * length)
        if over:
            line[:over], line[-over:] = np.linspace(0, 1, over), np.linspace(1, 0, over)
        return line

    return np.outer(ramp(height), ramp(width))[..., None]


def paste(frame: UInt8[np.ndarray, "_ _ 3"], whole: Image, square: Int[np.ndarray, "4"]) -> UInt8[np.ndarray, "h w 3"]:
    """A generated frame put into the whole picture where its portrait was cut out, with soft edges."""
    left, top, right, bottom = (int(value) for value in square)
    mask = soft_mask(bottom - top, right - left)
    made, out = resize(frame, bottom - top, right - left, "bilinear"), whole.copy()
    below = whole[top:bottom, left:right]
    out[top:bottom, left:right] = (made * mask + below * (1 - mask)).astype(np.uint8)
    return out
