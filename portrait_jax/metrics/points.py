"""Which of MediaPipe's 478 points the probe finds: those of the landmark drawing, the face's outline and the nose.

The order is by number, so that trained weights do not depend on how the topology lists its parts.
"""

from __future__ import annotations

import numpy as np

from portrait_jax.face.topology import EXPRESSION_POINTS, INNER_LIPS, LEFT_EYE, OVAL, PUPILS, RIGHT_EYE
from portrait_jax.typing import Float

NOSE_BRIDGE, NOSE_TIP = 168, 4

POINTS = tuple(sorted({*EXPRESSION_POINTS, *OVAL, NOSE_BRIDGE, NOSE_TIP}))
"""The probe's points, in the order of its output."""

SMALL_PARTS = frozenset({*LEFT_EYE, *RIGHT_EYE, *INNER_LIPS, *PUPILS})
"""Points of the parts whose motion is small and expressive."""


def scatter(points: Float[np.ndarray, "n p 2"]) -> Float[np.ndarray, "n 478 2"]:
    """Puts the probe's points at their places in MediaPipe's order; all others are NaN."""
    landmarks = np.full((len(points), 478, 2), np.nan, np.float32)
    landmarks[:, POINTS] = points
    return landmarks
