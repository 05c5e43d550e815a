"""A ring of overlapped windows: the video's end runs on into its beginning, and all windows move on at every step.

Both ends of what drives the video fade to nothing, so that the ring closes where nothing moves. Predictions are averaged by
`long_video.joint`.
"""

from __future__ import annotations

import numpy as np

from portrait_jax.errors import ConfigError
from portrait_jax.long_video.tiles import Tiles
from portrait_jax.typing import Int


def ring_tiles(frames: int, length: int, overlap: int, steps: int, shift: int, ends: int = 0) -> Tiles:
    """The windows of `ring_windows`, moved at each of `steps` solver steps as `ring_offsets` says; all frames count alike.

    Args:
        frames: of the video.
        ends: frames before and after it in which motion fades in and out, and which are not shown.
    """
    around = frames + 2 * ends
    windows = ring_windows(around, length, overlap)
    return Tiles(around, windows, np.ones(length), ring_offsets(steps, length, shift), ends)


def ring_windows(frames: int, length: int, overlap: int) -> Int[np.ndarray, "win f"]:
    """Frame numbers of windows of `length` frames, `length − overlap` apart, the last ones running on into the beginning; in a
    video shorter than a window frames come twice.

    Raises:
        ConfigError: unless frames ≥ 1 and 0 ≤ overlap < length.
    """
    if frames < 1 or not 0 <= overlap < length:
        raise ConfigError(
            f"a ring needs frames >= 1 and 0 <= overlap < length, not {frames}, {overlap} and {length}; give longer "
            "windows or a smaller overlap"
        )
    starts = np.arange(0, frames, length - overlap)
    return (starts[:, None] + np.arange(length)) % frames


def ring_offsets(steps: int, length: int, shift: int) -> Int[np.ndarray, " s"]:
    """By how many frames the windows have moved at each step: backwards by `shift` more each time, a window's length at most."""
    return -(np.arange(steps) * shift % length)
