"""How a video behaves over time, judged against the true one."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Num

from portrait_jax.errors import ShapeError
from portrait_jax.metrics.image import as_float01

STILL_LEVEL = 2 / 255
"""A pixel counts as still when the truth moves by at most this much (0..1) over the whole clip."""


def acceleration(video: Num[np.ndarray, "f h w c"]) -> float:
    """Mean absolute second difference over time, in 0..1 levels per frame²: 0 for a still or steadily fading video."""
    if len(video) < 3:
        raise ShapeError(f"a video of {len(video)} frames has no second difference over time; give at least 3")
    return float(np.abs(np.diff(as_float01(video), n=2, axis=0)).mean())


def smoothness(result: Num[np.ndarray, "f h w c"], truth: Num[np.ndarray, "f h w c"]) -> float:
    """The result's acceleration over the truth's: 1 moves as evenly as the truth, above 1 trembles, 0 stands still."""
    return acceleration(result) / max(acceleration(truth), 1e-8)


def still_pixels(truth: Num[np.ndarray, "f h w c"]) -> Bool[np.ndarray, "h w"]:
    """Where the truth does not change by more than `STILL_LEVEL` from its first to its last frame."""
    video = as_float01(truth)
    return (video.max(axis=0) - video.min(axis=0)).max(axis=-1) <= STILL_LEVEL


def flicker(result: Num[np.ndarray, "..."], truth: Num[np.ndarray, "f h w c"]) -> float:
    """Mean absolute frame-to-frame change where the truth stands still, 0..1; NaN if nothing stands still."""
    if np.shape(result) != np.shape(truth):
        raise ShapeError(f"the result has shape {np.shape(result)}, the truth {np.shape(truth)}; they must be equal")
    change = np.abs(np.diff(as_float01(result), axis=0)).mean(axis=(0, 3))
    still = still_pixels(truth)
    return float(change[still].mean()) if still.any() else float("nan")


def jitter(landmarks_px: Float[np.ndarray, "f p d"]) -> float:
    """Mean length of the second difference of points over time, in pixels per frame²."""
    return float(np.linalg.norm(np.diff(landmarks_px, n=2, axis=0), axis=-1).mean())
