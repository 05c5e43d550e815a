"""Changes of a whole example that keep it true: one random draw per clip, shared by all its frames and the reference.

There is no horizontal flip: the landmark topology, partings and asymmetric clothes tell left from right.
"""

from __future__ import annotations

import cv2
import numpy as np

from portrait_jax.typing import Float, UInt8

MAX_SHIFT = 0.5
"""Shift of the crop jitter, as a part of its zoom range."""


def color_table(rng: np.random.Generator, strength: float) -> UInt8[np.ndarray, "256 3"]:
    """A random tone curve: a gain per channel and one gamma, each within 1 ± `strength` (0 gives the identity)."""
    gains, gamma = 1 + strength * rng.uniform(-1, 1, 3), 1 + strength * rng.uniform(-1, 1)
    levels = (np.arange(256)[:, None] / 255) ** gamma * gains
    return np.clip(np.rint(255 * levels), 0, 255).astype(np.uint8)


def apply_color(
    frames: UInt8[np.ndarray, "*n h w 3"], table: UInt8[np.ndarray, "256 3"]
) -> UInt8[np.ndarray, "*n h w 3"]:
    """Looks every value up in its channel's tone curve."""
    flat = cv2.LUT(np.ascontiguousarray(frames.reshape(1, -1, 3)), table.reshape(1, 256, 3))
    return flat.reshape(frames.shape)


def crop_matrix(rng: np.random.Generator, strength: float, size: int) -> Float[np.ndarray, "2 3"]:
    """A random zoom within 1 ± `strength` about the centre, and a shift of at most half that range of the size."""
    zoom = 1 + strength * rng.uniform(-1, 1)
    shift = strength * MAX_SHIFT * rng.uniform(-1, 1, 2) * size
    middle = np.full(2, size / 2)
    return np.column_stack([np.eye(2) * zoom, middle - zoom * middle + shift])


def apply_crop(frames: UInt8[np.ndarray, "n h w 3"], matrix: Float[np.ndarray, "2 3"]) -> UInt8[np.ndarray, "n h w 3"]:
    """Warps frames; what comes from outside mirrors the border."""
    height, width = frames.shape[1:3]
    # `matrix` moves corner-based coordinates; OpenCV counts from pixel centres.
    centred = matrix.copy()
    centred[:, 2] += matrix[:, :2] @ np.full(2, 0.5) - 0.5
    warped = [
        cv2.warpAffine(frame, centred, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        for frame in frames
    ]
    return np.stack(warped)


def move_landmarks(
    landmarks_px: Float[np.ndarray, "n k 3"], matrix: Float[np.ndarray, "2 3"]
) -> Float[np.ndarray, "n k 3"]:
    """The landmarks of frames warped by `apply_crop`; z scales with the zoom."""
    moved = np.empty_like(landmarks_px)
    moved[..., :2] = landmarks_px[..., :2] @ matrix[:, :2].T + matrix[:, 2]
    moved[..., 2] = landmarks_px[..., 2] * matrix[0, 0]
    return moved
