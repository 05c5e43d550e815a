"""A minimal moving face in MediaPipe's numbering: only the points that the metrics read; all others are NaN."""

import numpy as np

from portrait_jax.face.measures import EYE_CORNERS, INNER_LIPS_LOWER, INNER_LIPS_UPPER
from portrait_jax.face.topology import MOUTH_CORNERS
from portrait_jax.metrics.following import CHEEKS
from portrait_jax.metrics.points import NOSE_TIP, POINTS


def face(mouth, yaw, *, scale=50.0, centre=(64.0, 64.0), roll=0.0, fill=False):
    """Frames of a face with the given courses of mouth opening and yaw (radians); lengths in half face widths.

    `fill` puts the probe's other points on the nose, so that none of them is NaN.
    """
    mouth, yaw = np.broadcast_arrays(np.asarray(mouth, float), np.asarray(yaw, float))
    landmarks = np.full((len(mouth), 478, 3), np.nan)
    for frame, (opening, angle) in enumerate(zip(mouth, yaw, strict=True)):
        shape = {index: (x, -0.25, 0.75) for index, x in zip(EYE_CORNERS, (-0.6, -0.25, 0.25, 0.6), strict=True)}
        shape |= {index: (x, 0.55, 0.8) for index, x in zip(INNER_LIPS_UPPER, (-0.1, 0.0, 0.1), strict=True)}
        shape |= {index: (x, 0.55 + opening, 0.8) for index, x in zip(INNER_LIPS_LOWER, (-0.1, 0.0, 0.1), strict=True)}
        shape |= {MOUTH_CORNERS[0]: (-0.3, 0.55, 0.7), MOUTH_CORNERS[1]: (0.3, 0.55, 0.7)}
        shape |= {NOSE_TIP: (0.0, 0.2, 1.2), CHEEKS[0]: (-1.0, 0.0, 0.0), CHEEKS[1]: (1.0, 0.0, 0.0)}
        shape = dict.fromkeys(POINTS if fill else (), shape[NOSE_TIP]) | shape
        for index, (x, y, depth) in shape.items():
            x, z = x * np.cos(angle) + depth * np.sin(angle), depth * np.cos(angle) - x * np.sin(angle)
            x, y = x * np.cos(roll) - y * np.sin(roll), x * np.sin(roll) + y * np.cos(roll)
            landmarks[frame, index] = (centre[0] + scale * x, centre[1] + scale * y, -scale * z)
    return landmarks
