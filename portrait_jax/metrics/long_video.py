"""What goes wrong in long videos: jumps and double images where units of work meet, and errors that grow with time.

Every measure sets the result beside the true video, so that a fast performance is not taken for a bad seam.
"""

from __future__ import annotations

import numpy as np

from portrait_jax.errors import ShapeError
from portrait_jax.metrics import temporal
from portrait_jax.metrics.image import as_float01
from portrait_jax.metrics.suite import Metric, Scores
from portrait_jax.typing import Bool, Float, Int, UInt8, Video

METRICS = {
    "smoothness": Metric("acceleration relative to truth", "one", 2),
    "seam_jump": Metric("change at borders over change elsewhere, relative to truth", "one", 2),
    "ghosting": Metric("detail lost at borders beyond elsewhere, %", "low", 1),
    "l1": Metric("L1", "low", 4),
    "drift": Metric("growth of L1 from first to last frame", "low", 4),
    "colour_drift": Metric("growth of the mean colour's error", "low", 4),
    "colour_shift": Metric("how far the mean colour moves from where it began", "low", 4),
    "contrast": Metric("contrast at the end over contrast at the beginning, relative to truth", "one", 3),
}
ENDS = 60
"""The beginning and the end of a video are one of so many parts of it: a second of a minute."""


def frame_change(video: Video) -> Float[np.ndarray, " g"]:
    """Mean absolute difference of each frame from the one before, 0..1; one fewer than frames."""
    return np.array([np.abs(as_float01(b) - as_float01(a)).mean() for a, b in zip(video[:-1], video[1:])])


def detail(video: Video) -> Float[np.ndarray, " f"]:
    """Mean squared difference of neighbouring pixels of each frame: what blur and averages of two pictures lower."""

    def of(frame: np.ndarray) -> float:
        picture = as_float01(frame)
        return float((np.diff(picture, axis=0) ** 2).mean() + (np.diff(picture, axis=1) ** 2).mean())

    return np.array([of(frame) for frame in video])


def seam_jump(result: Video, truth: Video, borders: Int[np.ndarray, " n"]) -> float:
    """How much more the result changes where a new unit begins than it does elsewhere, in units of the truth's change.

    1: borders cannot be told by their motion; above 1 the result jumps there, below 1 it hesitates.

    Args:
        borders: frames that come from another unit than the frame before; NaN is returned if there are none.
    """
    at = _mask(len(truth) - 1, np.asarray(borders) - 1)
    return _ratio(frame_change(result), frame_change(truth), at)


def ghosting(result: Video, truth: Video, blended: Int[np.ndarray, " n"]) -> float:
    """Detail that frames near borders lack beyond what all other frames lack, in percent of the truth's.

    0: as sharp as elsewhere; positive where two pictures that do not agree are laid over each other.

    Args:
        blended: frames made from two units, or lying nearest to where two meet.
    """
    return 100 * (1 - _ratio(detail(result), detail(truth), _mask(len(truth), blended)))


def growth(error: Float[np.ndarray, " f"]) -> float:
    """How much an error grows from the first to the last frame along the straight line that fits it best."""
    time = np.arange(len(error)) - (len(error) - 1) / 2
    return float((time * error).sum() / max((time**2).sum(), 1e-12) * (len(error) - 1))


def colour_offset(result: Video, truth: Video) -> Float[np.ndarray, "f c"]:
    """Each frame's mean colour less the true one's, −1..1."""
    means = (np.array([as_float01(frame).mean(axis=(0, 1)) for frame in video]) for video in (result, truth))
    return np.subtract(*means)


def colour_shift(offset: Float[np.ndarray, "f c"]) -> float:
    """How far a mean colour moves over the video, whichever way: the mean over channels of what `growth` finds in each.

    A result that begins wrong and moves towards the truth has drifted too, which the growth of its error takes for a gain.
    """
    return float(np.mean([abs(growth(channel)) for channel in offset.T]))


def contrast(video: Video) -> Float[np.ndarray, " f"]:
    """Deviation of each frame's pixels from its mean colour, the mean over channels, 0..0.5."""
    return np.array([as_float01(frame).std(axis=(0, 1)).mean() for frame in video])


def contrast_change(result: Video, truth: Video) -> float:
    """Contrast in the last part of `ENDS` over that in the first, in units of the truth's change. 1: it stays; above, colours run
    apart, below, they fade, which the mean colour need not show."""
    ends = max(len(truth) // ENDS, 1)
    own, true = (contrast(video[-ends:]).mean() / max(contrast(video[:ends]).mean(), 1e-9) for video in (result, truth))
    return float(own / max(true, 1e-9))


def measure(
    result: UInt8[np.ndarray, "..."], truth: Video, borders: Int[np.ndarray, " n"], blended: Int[np.ndarray, " m"]
) -> Scores:
    """All of `METRICS` for one result.

    Raises:
        ShapeError: if result and truth differ in shape.
    """
    if result.shape != truth.shape:
        raise ShapeError(f"the result has shape {result.shape}, the truth {truth.shape}; they must be equal")
    pairs = [(as_float01(a), as_float01(b)) for a, b in zip(result, truth)]
    error = np.array([np.abs(a - b).mean() for a, b in pairs])
    offset = colour_offset(result, truth)
    return {
        "smoothness": temporal.smoothness(result, truth),
        "seam_jump": seam_jump(result, truth, borders),
        "ghosting": ghosting(result, truth, blended),
        "l1": float(error.mean()),
        "drift": growth(error),
        "colour_drift": growth(np.abs(offset).mean(axis=1)),
        "colour_shift": colour_shift(offset),
        "contrast": contrast_change(result, truth),
    }


def _mask(size: int, places: np.ndarray) -> Bool[np.ndarray, " n"]:
    mask = np.zeros(size, bool)
    places = np.asarray(places, int)
    mask[places[(places >= 0) & (places < size)]] = True
    return mask


def _ratio(result: np.ndarray, truth: np.ndarray, at: np.ndarray) -> float:
    """(result/truth at some places) / (result/truth elsewhere); NaN where either set of places is empty."""
    if not at.any() or at.all():
        return float("nan")
    here, elsewhere = (result[places].mean() / max(truth[places].mean(), 1e-9) for places in (at, ~at))
    return float(here / max(elsewhere, 1e-9))
