"""How much a face moves, as two levels: of its expression and of the head (HunyuanPortrait, arXiv 2503.18860, section 3.3).

Both are read from five points (`face.five_points`). Paper and release measure a little differently, see `RULES`; which of them
is taken, `IntensityConfig` says to whoever needs levels, in sampling and in training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from portrait_jax.errors import ConfigError, ShapeError, nearest
from portrait_jax.typing import Array, Float, Int

NOSE = 2
"""Of the five points."""
CHUNK = 25
"""Frames that are measured together."""

Stretches = Float[np.ndarray | Array, "*n f 5 2"]
Numbers = Float[np.ndarray | Array, "*n"] | np.floating
"""One per stretch; numpy gives no array where there is a single one."""
Measured = tuple[Numbers, Numbers]


def released(points_px: Stretches) -> Measured:
    """(head, expression) in face sizes: mean distances from the mean. The size is the diagonal of the first frame's points."""
    nose, local = parts(points_px)
    first = local[..., 0, :, :]
    size = length(first.max(-2) - first.min(-2))
    head = length(nose - nose.mean(-2, keepdims=True)).mean(-1)
    expression = length(local - local.mean(-3, keepdims=True)).mean((-2, -1))
    return head / size, expression / size


def published(points_px: Stretches) -> Measured:
    """(head, expression) by equations 2 and 3: roots of mean squares. The size is the largest minus the smallest coordinate."""
    nose, local = parts(points_px)
    first = local[..., 0, :, :]
    size = first.max((-2, -1)) - first.min((-2, -1))
    head = ((nose - nose.mean(-2, keepdims=True)) ** 2).sum(-1).mean(-1) ** 0.5
    expression = (((local - local.mean(-3, keepdims=True)) ** 2).sum(-1).mean(-1) ** 0.5).mean(-1)
    return head / size, expression / size


def parts(points_px: Stretches) -> tuple[Float[np.ndarray | Array, "*n f 2"], Stretches]:
    """The nose, which is the head's place, and all points as seen from it."""
    return points_px[..., NOSE, :], points_px - points_px[..., NOSE : NOSE + 1, :]


def length(vectors: Float[np.ndarray | Array, "*n 2"]) -> Numbers:
    """Of each vector; methods alone, so that the rules work on arrays of numpy and inside a jitted step."""
    return (vectors**2).sum(-1) ** 0.5


RULES: Mapping[str, Callable[[Stretches], Measured]] = MappingProxyType({"released": released, "paper": published})


@dataclass(frozen=True)
class IntensityConfig:
    """How intensities become levels; the defaults are the release's."""

    rule: str = "released"
    """"released", or "paper" (equations 2 and 3), which has 64 levels and leaves open how wide they are."""
    levels: int = 128
    """0 … levels − 1; what moves more counts as the last one."""
    factors: tuple[float, float] = (256.0, 1024.0)
    """Levels per face size of head and of expression."""

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ConfigError(f"motion intensity has no rule '{self.rule}'{nearest(self.rule, tuple(RULES))}")
        if self.levels < 1 or len(self.factors) != 2 or min(self.factors) <= 0:
            raise ConfigError(
                "motion intensity needs at least one level, and two positive factors (of head and of expression), not "
                f"{self.levels} and {self.factors}"
            )

    def check_known(self, levels: int) -> None:
        """Raises ConfigError if a motion memory that knows so many levels could be told one beyond them."""
        if self.levels > levels:
            raise ConfigError(
                f"intensity.levels {self.levels} are more than the {levels} of motion_memory.levels; make them equal"
            )


RELEASED = IntensityConfig()


def motion_levels(points_px: Float[np.ndarray, "f 5 2"], config: IntensityConfig = RELEASED) -> tuple[int, int]:
    """Levels (head, expression) of one stretch of frames.

    Args:
        points_px: the five points of each frame, in pixels of the whole frame.

    Raises:
        ShapeError: if there is no frame, or all points of the first one coincide.
    """
    if not len(points_px) or not np.ptp(points_px[0]):
        raise ShapeError("motion intensity needs at least one frame whose five points do not coincide")
    measured = RULES[config.rule](np.asarray(points_px, np.float64))
    head, expression = (min(int(each * x), config.levels - 1) for each, x in zip(config.factors, measured, strict=True))
    return head, expression


def frame_levels(
    points_px: Float[np.ndarray, "f 5 2"], chunk: int = CHUNK, config: IntensityConfig = RELEASED
) -> tuple[Int[np.ndarray, " f"], Int[np.ndarray, " f"]]:
    """Levels (head, expression) of every frame: those of its stretch of `chunk` frames; the last one may be shorter.

    Raises:
        ShapeError: see `motion_levels`.
    """
    stretches = [points_px[first : first + chunk] for first in range(0, len(points_px), chunk)]
    found = [np.tile(motion_levels(stretch, config), (len(stretch), 1)).astype(np.int32) for stretch in stretches]
    head, expression = np.concatenate(found).T
    return head, expression
