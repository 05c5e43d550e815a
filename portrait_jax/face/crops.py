"""Square crops around a face, with margins for hair and shoulders, and the landmarks in the crop's pixels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from portrait_jax.errors import NoFaceError
from portrait_jax.face.topology import OVAL, index
from portrait_jax.media.image import resize
from portrait_jax.typing import Float, Image, UInt8

UPWARD_SHIFT = 0.12
"""The oval ends at the forehead: crops move up by this fraction of the box's height to leave room for the hair."""


def face_box(landmarks_px: Float[np.ndarray, "*f 478 d"]) -> Float[np.ndarray, "*f 4"]:
    """(x0, y0, x1, y1) in pixels around the face oval of each frame."""
    points = np.asarray(landmarks_px)[..., index(OVAL), :2]
    return np.concatenate([points.min(-2), points.max(-2)], axis=-1).astype(np.float32)


class Crop(NamedTuple):
    """A square of `size` pixels with its top-left corner at (`x0`, `y0`); it may reach beyond the image."""

    x0: int
    y0: int
    size: int

    def apply(self, image: Image, output_size: int | None = None) -> UInt8[np.ndarray, "side side 3"]:
        """Cuts the square out (edge pixels repeat beyond the image) and resizes it to `output_size`, if given."""
        rows = np.clip(np.arange(self.y0, self.y0 + self.size), 0, image.shape[0] - 1)
        columns = np.clip(np.arange(self.x0, self.x0 + self.size), 0, image.shape[1] - 1)
        square = image[rows[:, None], columns[None]]
        return square if output_size is None else resize(square, output_size, output_size)

    def apply_landmarks(
        self, landmarks_px: Float[np.ndarray, "*f 478 d"], output_size: int | None = None
    ) -> Float[np.ndarray, "*f 478 d"]:
        """Landmarks in pixels of the cropped, resized image; depth scales along."""
        scale = 1.0 if output_size is None else output_size / self.size
        moved = np.array(landmarks_px, np.float32)
        moved[..., 0] -= self.x0
        moved[..., 1] -= self.y0
        return moved * np.float32(scale)


def square_crop(
    box: Float[np.ndarray, "4"], margin: float | int, image_size: tuple[int, int], lift: float = UPWARD_SHIFT
) -> Crop:
    """The square around a face box with `margin` (a fraction of the box's longer side) on each side.

    It shrinks to fit into the image as long as the box itself still fits, and moves inside wherever it can.

    Args:
        image_size: (height, width) in pixels.
        lift: how far the square's middle lies above the box's, as a fraction of the box's longer side.

    Raises:
        NoFaceError: the box is not finite, empty, or lies outside the image.
    """
    height, width = image_size
    x0, y0, x1, y1 = (float(value) for value in box)
    side = max(x1 - x0, y1 - y0)
    if not np.isfinite(side) or min(x1 - x0, y1 - y0) <= 0 or x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
        corners = f"({x0:.0f}, {y0:.0f})–({x1:.0f}, {y1:.0f})"
        raise NoFaceError(f"the face box {corners} lies outside the {width}×{height} image; use another picture")
    # Two more pixels than the box: its corner may lie anywhere within a pixel.
    size = max(round(min(side * (1 + 2 * margin), height, width)), int(np.ceil(side)) + 2)
    slack = size - side
    left = _placed((x0 + x1 - size) / 2, (x1 - size, x0), width - size)
    top = _placed((y0 + y1 - size) / 2 - min(lift * side, slack / 4), (y1 - size, y0), height - size)
    return Crop(left, top, size)


def _placed(start: float, around_box: tuple[float, float], room: int) -> int:
    """The wished start, inside the image if the crop is no larger than it, but never cutting the box."""
    if room >= 0:
        start = min(max(start, 0), room)
    return int(min(max(round(start), np.ceil(around_box[0])), np.floor(around_box[1])))


def clip_crop(landmarks_px: Float[np.ndarray, "f 478 d"], margin: float | int, image_size: tuple[int, int]) -> Crop:
    """One steady square for a whole clip: around every frame's box, so that the head moves and the crop does not."""
    boxes = face_box(landmarks_px)
    return square_crop(np.concatenate([boxes[:, :2].min(0), boxes[:, 2:].max(0)]), margin, image_size)
