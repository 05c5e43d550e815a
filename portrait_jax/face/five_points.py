"""Five points of a face, as face recognisers and small detectors have them, and the similarity that brings them to a template.

Order: the eye on the picture's left, the one on its right, nose tip, left and right corner of the mouth.
"""

from __future__ import annotations

import numpy as np

from portrait_jax.face.topology import index
from portrait_jax.typing import Float, Image, UInt8

TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float32
)
"""Where insightface's recognisers expect the five points in 112×112 pixels."""
FIVE_POINTS = ((33, 133), (362, 263), (4,), (61,), (291,))
"""The same five by MediaPipe's landmarks, each the mean of its points."""


def five_points(landmarks_px: Float[np.ndarray, "*f 478 d"]) -> Float[np.ndarray, "*f 5 2"]:
    """Eyes, nose tip and mouth corners in pixels."""
    points = [landmarks_px[..., index(points), :2].mean(axis=-2) for points in FIVE_POINTS]
    return np.stack(points, axis=-2).astype(np.float32)


def similarity(source: Float[np.ndarray, "p 2"], target: Float[np.ndarray, "p 2"]) -> Float[np.ndarray, "2 3"]:
    """The turn, scale and shift that bring `source` closest to `target`, by least squares: target ≈ matrix · (x, y, 1)."""
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    a, b = source - source.mean(axis=0), target - target.mean(axis=0)
    # A similarity is a complex factor: the least-squares one is ⟨a, b⟩ / ⟨a, a⟩.
    one, other = a[:, 0] + 1j * a[:, 1], b[:, 0] + 1j * b[:, 1]
    factor = np.vdot(one, other) / max(np.vdot(one, one).real, 1e-8)
    linear = np.array([[factor.real, -factor.imag], [factor.imag, factor.real]])
    return np.column_stack([linear, target.mean(axis=0) - linear @ source.mean(axis=0)])


def aligned_face(
    image: Image, landmarks_px: Float[np.ndarray, "478 d"], size: int = 112
) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """The face turned, scaled and moved onto the template by the least-squares similarity of its five points."""
    # Landmarks and template count from the corner of the first pixel, `_warped` from its middle.
    return _warped(image, similarity(five_points(landmarks_px) - 0.5, TEMPLATE * (size / 112) - 0.5), size)


def template_face(
    image: Image, points_px: Float[np.ndarray, "5 2"], size: int = 112
) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """The face on the template: bilinear, black outside; points and pixels count from the first pixel's middle.

    Source: HunyuanPortrait's release, src/dataset/test_preprocess.py, align_face.
    """
    return _warped(image, similarity(points_px, TEMPLATE * (size / 112)), size)


def _warped(image: Image, matrix: Float[np.ndarray, "2 3"], size: int) -> UInt8[np.ndarray, "{size} {size} 3"]:
    y, x = np.mgrid[:size, :size]
    place = np.linalg.inv(np.vstack([matrix, [0, 0, 1]])) @ np.stack([x, y, np.ones_like(x)]).reshape(3, -1)
    # One black pixel all around: what lies outside fades to it.
    height, width = image.shape[:2]
    padded = np.pad(image.astype(np.float64), ((1, 2), (1, 2), (0, 0)))
    column, row = (np.clip(place[i], -1, side) + 1 for i, side in enumerate((width, height)))
    left, top = column.astype(int), row.astype(int)
    right, down = (column - left)[:, None], (row - top)[:, None]
    upper = padded[top, left] * (1 - right) + padded[top, left + 1] * right
    lower = padded[top + 1, left] * (1 - right) + padded[top + 1, left + 1] * right
    return np.rint(upper * (1 - down) + lower * down).reshape(size, size, 3).astype(np.uint8)
