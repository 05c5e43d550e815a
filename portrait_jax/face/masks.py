"""Where the facial fine-grained loss looks, the face region (Follow-Your-Emoji, section 3.2 and `draw_mask`), its rectangle.

Masks for losses live on the latent grid: 1 inside, 0 outside.
"""

from __future__ import annotations

import cv2
import numpy as np

from portrait_jax.errors import ShapeError
from portrait_jax.face.crops import face_box
from portrait_jax.face.topology import EXPRESSION_POINTS, OVAL, Chain, index
from portrait_jax.typing import Bool, Float

_DISC_RADIUS_AT_512 = 8
_EXPRESSION_POINTS = index(EXPRESSION_POINTS)
_FAR = float(1 << 14)


def expression_mask(
    landmarks_px: Float[np.ndarray, "478 d"], height: int, width: int, latent_factor: int = 8
) -> Float[np.ndarray, "lh lw 1"]:
    """Latent cells touched by a drawn landmark, each dilated to a disc (radius 8 at 512 pixels, in proportion).

    Pooled by maximum, so that thin parts survive. Raises ShapeError if the size is no multiple of `latent_factor`.
    """
    radius = max(1, round(_DISC_RADIUS_AT_512 * min(height, width) / 512))
    image = np.zeros((height, width), np.uint8)
    for x, y in _integers(landmarks_px)[_EXPRESSION_POINTS].tolist():
        cv2.circle(image, (x, y), radius, 1, cv2.FILLED)
    return _cells(image, latent_factor).max(axis=(1, 3)).astype(np.float32)[..., None]


def oval_cells(
    landmarks_px: Float[np.ndarray, "478 d"], height: int, width: int, latent_factor: int = 8
) -> Float[np.ndarray, "lh lw 1"]:
    """Latent cells that lie at least half inside the face oval. Raises ShapeError as `expression_mask` does."""
    inside = oval_mask(landmarks_px, height, width).astype(np.uint8)
    return (_cells(inside, latent_factor).mean(axis=(1, 3)) >= 0.5).astype(np.float32)[..., None]


def oval_mask(landmarks_px: Float[np.ndarray, "478 d"], height: int, width: int) -> Bool[np.ndarray, "h w"]:
    """Pixels inside the face oval, forehead included."""
    return polygon_mask(landmarks_px, OVAL, height, width)


def polygon_mask(
    landmarks_px: Float[np.ndarray, "478 d"], chain: Chain, height: int, width: int
) -> Bool[np.ndarray, "h w"]:
    """Pixels inside the closed polygon through a chain of landmarks, as the release fills them."""
    image = np.zeros((height, width), np.uint8)
    cv2.fillPoly(image, [_integers(landmarks_px)[index(chain)]], 1)
    return image.astype(bool)


def face_rectangle(
    landmarks_px: Float[np.ndarray, "*f 478 d"], height: int, width: int, enlarged: float | int = 1
) -> Float[np.ndarray, "h w"]:
    """1 in the one rectangle around the face in all frames, enlarged about its middle and moved back inside the picture, else 0.

    Source: Hallo3, sgm/utils/util.py, get_face_mask and expand_region.
    """
    boxes = face_box(landmarks_px).reshape(-1, 4)
    corners = np.rint(np.clip(np.concatenate([boxes[:, :2].min(0), boxes[:, 2:].max(0)]), -_FAR, _FAR)).astype(int)
    mask = np.zeros((height, width), np.float32)
    spans = []
    for low, high, size in zip(corners[:2], corners[2:], (width, height)):
        middle, half = (low + high) // 2, int((high - low) * enlarged / 2)
        start, stop = middle - half, middle + half
        move = max(-start, 0) - max(stop - size, 0)
        spans.append(slice(max(start + move, 0), max(min(stop + move, size), 0)))
    mask[spans[1], spans[0]] = 1
    return mask


def _integers(landmarks_px: np.ndarray) -> np.ndarray:
    return np.clip(landmarks_px[:, :2], -_FAR, _FAR).astype(np.int32)


def _cells(image: np.ndarray, factor: int) -> np.ndarray:
    height, width = image.shape
    if height % factor or width % factor:
        raise ShapeError(f"a mask of {height}×{width} pixels does not divide into cells of {factor}×{factor}")
    return image.reshape(height // factor, factor, width // factor, factor)
