"""The expression-aware landmark image: eyes, brows, inner lips and pupils as coloured lines on black.

Follow-Your-Emoji, section 3.2; release `media_pipe/draw_util.py`. Two styles share parts, colours and order: "released"
equals the published drawings pixel for pixel, "smooth" keeps sub-pixel motion visible at small sizes. Ablations of the
latter draw other parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise

import cv2
import numpy as np

from portrait_jax.errors import ConfigError, nearest
from portrait_jax.face.topology import (
    CONTOUR,
    NUM_LANDMARKS,
    PARTS,
    PLAIN_PARTS,
    PUPIL_COLOUR,
    PUPILS,
    Chain,
    Part,
    index,
)
from portrait_jax.typing import Float, UInt8

_SHIFT = 4
"""Fractional bits of OpenCV's sub-pixel coordinates."""
_FAR = float(1 << 14)
"""Coordinates beyond this many pixels would overflow OpenCV's fixed point; they are off the image anyway."""

_PUPIL_HALF_WIDTH = 3


DOTS = tuple(sorted({*PUPILS, *(number for part in PLAIN_PARTS for chain in part.chains for number in chain)}))
"""What `draw_dots` shows."""


def draw_landmarks(
    landmarks_px: Float[np.ndarray, "478 d"], height: int, width: int, style: str = "released"
) -> UInt8[np.ndarray, "{height} {width} 3"]:
    """Draws one frame's landmarks.

    Args:
        landmarks_px: pixels of a `height`×`width` image, origin at the top-left corner; columns after x, y are unused.
        style: "released" (thickness 1 and 6×6 pupils at any size, points outside the image dropped, no
            anti-aliasing) or "smooth" (anti-aliased at sub-pixel positions, line thickness size/256, at least 1); see
            `STYLES` for what its variants draw.

    Returns:
        RGB drawing on black.

    Raises:
        ConfigError: an unknown style.
        ValueError: a landmark is not finite.
    """
    if style not in STYLES:
        raise ConfigError(f"unknown landmark drawing style '{style}'{nearest(style, tuple(STYLES))}")
    points = np.asarray(landmarks_px, np.float64)[:NUM_LANDMARKS, :2]
    if not np.isfinite(points).all():
        raise ValueError("landmarks_px holds values that are not finite")
    image = np.zeros((height, width, 3), np.uint8)
    STYLES[style](image, points)
    return image


def draw_dots(
    landmarks_px: Float[np.ndarray, "478 d"], height: int, width: int
) -> UInt8[np.ndarray, "{height} {width} 3"]:
    """One frame's key points as white filled dots on black, of radius 3 at 512 pixels: what pose controls know faces by.

    The points are those of eyes, pupils, brows, nose, both lips, and of the face's contour from temple to temple.
    """
    image, size = np.zeros((height, width, 3), np.uint8), min(height, width)
    points = np.rint(np.clip(np.asarray(landmarks_px, np.float64)[:, :2] - 0.5, -_FAR, _FAR) * (1 << _SHIFT)).astype(
        int
    )
    radius = round(max(0.75, 3 * size / 512) * (1 << _SHIFT))
    for number in DOTS:
        cv2.circle(image, points[number].tolist(), radius, (255, 255, 255), cv2.FILLED, cv2.LINE_AA, _SHIFT)
    return image


def _released(image: np.ndarray, points: np.ndarray) -> None:
    height, width = image.shape[:2]
    size = np.array([width, height])
    # The release passes through MediaPipe's float32 normalised landmarks; rounding to a pixel depends on it.
    normalised = (points / size).astype(np.float32).astype(np.float64)
    inside = ((normalised >= 0) & (normalised <= 1)).all(axis=1)
    pixels = np.minimum(np.floor(np.where(inside[:, None], normalised, 0) * size), size - 1).astype(int)
    for part in PARTS:
        for chain in part.chains:
            for start, end in pairwise(chain):
                if inside[start] and inside[end]:
                    cv2.line(image, pixels[start].tolist(), pixels[end].tolist(), part.colour, 1)
    for pupil in PUPILS:
        x, y = (int(value) for value in points[pupil])
        reach = _PUPIL_HALF_WIDTH
        # Python's slice rule is part of the released behaviour: a negative start makes the square vanish.
        image[y - reach : y + reach, x - reach : x + reach] = PUPIL_COLOUR


def _smooth(image: np.ndarray, points: np.ndarray, parts: tuple[Part, ...] = PARTS, pupils: Chain = PUPILS) -> None:
    size = min(image.shape[:2])
    # OpenCV counts from pixel centres, landmarks from the corner.
    fixed = np.rint(np.clip(points - 0.5, -_FAR, _FAR) * (1 << _SHIFT)).astype(np.int32)
    thickness = max(1, round(size / 256))
    for part in parts:
        chains = [fixed[index(chain)] for chain in part.chains]
        cv2.polylines(image, chains, False, part.colour, thickness, cv2.LINE_AA, _SHIFT)
    radius = round(max(1.25, _PUPIL_HALF_WIDTH * size / 512) * (1 << _SHIFT))
    for pupil in pupils:
        cv2.circle(image, fixed[pupil].tolist(), radius, PUPIL_COLOUR, cv2.FILLED, cv2.LINE_AA, _SHIFT)


STYLES: Mapping[str, Callable[[np.ndarray, np.ndarray], None]] = {
    "released": _released,
    "smooth": _smooth,
    "smooth_contour": partial(_smooth, parts=(CONTOUR, *PARTS)),
    "smooth_no_pupils": partial(_smooth, pupils=()),
    "smooth_plain": partial(_smooth, parts=PLAIN_PARTS, pupils=()),
}
"""The last three are ablations: with the face's contour, without pupils, and plain 2-D landmarks (`PLAIN_PARTS`)."""
