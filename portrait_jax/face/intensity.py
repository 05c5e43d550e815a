"""How much a face moves, as two levels: of its expression and of the head (HunyuanPortrait, arXiv 2503.18860, section 3.3).

Both are read from five points (`face.five_points`). Paper and release measure a little differently, see `RULES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from portrait_jax.errors import ConfigError, ShapeError, nearest
from portrait_jax.typing import Float, Int

NOSE = 2
"""Of the five points."""
LEVELS = 128
"""Of the release; the paper has 64."""
FACTORS = (256, 1024)
"""Release: levels per face size of head and of expression."""
CHUNK = 25
"""Frames that are measured together."""

Points = Float[np.ndarray, "f 5 2"]


def released(points_px: Points) -> tuple[float, float]:
    """(head, expression) in face sizes: mean distances from the mean. The size is the diagonal of the first frame's points."""
    local = points_px - points_px[:, NOSE : NOSE + 1]
    size = float(np.hypot(*np.ptp(local[0], axis=0)))
    nose = points_px[:, NOSE]
    head = np.linalg.norm(nose - nose.mean(0), axis=-1).mean()
    expression = np.linalg.norm(local - local.mean(0), axis=-1).mean()
    return float(head) / size, float(expression) / size


def published(points_px: Points) -> tuple[float, float]:
    """(head, expression) by equations 2 and 3: roots of mean squares. The size is the largest minus the smallest coordinate."""
    local = points_px - points_px[:, NOSE : NOSE + 1]
    size = float(np.ptp(local[0]))
    nose = points_px[:, NOSE]
    head = np.sqrt(np.square(nose - nose.mean(0)).sum(-1).mean())
    expression = np.sqrt(np.square(local - local.mean(0)).sum(-1).mean(-1)).mean()
    return float(head) / size, float(expression) / size


RULES: Mapping[str, Callable[[Points], tuple[float, float]]] = MappingProxyType(
    {"released": released, "paper": published}
)


def motion_levels(
    points_px: Points, *, rule: str = "released", levels: int = LEVELS, factors: tuple[float, float] = FACTORS
) -> tuple[int, int]:
    """Levels (head, expression), 0 … levels − 1, of one stretch of frames.

    Args:
        points_px: the five points of each frame, in pixels of the whole frame.
        rule: "released", or "paper", which leaves the levels' width open: `factors` says how many fit one face size.

    Raises:
        ConfigError: for an unknown rule.
        ShapeError: if there is no frame, or all points of the first one coincide.
    """
    if rule not in RULES:
        raise ConfigError(f"motion intensity has no rule '{rule}'{nearest(rule, tuple(RULES))}")
    if not len(points_px) or not np.ptp(points_px[0]):
        raise ShapeError("motion intensity needs at least one frame whose five points do not coincide")
    measured = RULES[rule](np.asarray(points_px, np.float64))
    head, expression = (min(max(int(factor * x), 0), levels - 1) for factor, x in zip(factors, measured, strict=True))
    return head, expression


def frame_levels(
    points_px: Points, chunk: int = CHUNK, **options
) -> tuple[Int[np.ndarray, " f"], Int[np.ndarray, " f"]]:
    """Levels (head, expression) of every frame: those of its stretch of `chunk` frames; the last one may be shorter.

    Raises:
        ConfigError, ShapeError: see `motion_levels`.
    """
    stretches = [points_px[first : first + chunk] for first in range(0, len(points_px), chunk)]
    found = [np.tile(motion_levels(stretch, **options), (len(stretch), 1)).astype(np.int32) for stretch in stretches]
    head, expression = np.concatenate(found).T
    return head, expression
