"""Which of MediaPipe's 478 landmarks are what, and how the expression-aware drawing connects and colours them.

"Left" and "right" are the subject's. Sources: Follow-Your-Emoji (arXiv 2406.01900) and its release,
`media_pipe/draw_util.py`; MediaPipe's face mesh topology.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

NUM_LANDMARKS = 478

DETECTED, LOWER = 0.92, 0.055
"""BlazeFace's square relative to the longer side of MediaPipe's face oval, and how far below the oval's middle its own lies:
medians over 36 pictures of eleven people, whose deviations are 0.02."""
TOWARDS_BOX = 0.45
"""How far the edges of HunyuanPortrait's face crops lie from the outermost of five points towards the first frame's box."""

Chain = tuple[int, ...]
Colour = tuple[int, int, int]


class Part(NamedTuple):
    """One coloured part of the drawing: polylines through landmark indices."""

    name: str
    colour: Colour
    chains: tuple[Chain, ...]


LEFT_EYE_CHAINS = ((263, 249, 390, 373, 374, 380, 381, 382, 362), (263, 466, 388, 387, 386, 385, 384, 398, 362))
RIGHT_EYE_CHAINS = ((33, 7, 163, 144, 145, 153, 154, 155, 133), (33, 246, 161, 160, 159, 158, 157, 173, 133))
LEFT_BROW_CHAINS = ((276, 283, 282, 295, 285), (300, 293, 334, 296, 336))
RIGHT_BROW_CHAINS = ((46, 53, 52, 65, 55), (70, 63, 105, 66, 107))
LOWER_LIP_RIGHT, LOWER_LIP_LEFT = (78, 95, 88, 178, 87, 14), (14, 317, 402, 318, 324, 308)
UPPER_LIP_RIGHT, UPPER_LIP_LEFT = (78, 191, 80, 81, 82, 13), (13, 312, 311, 310, 415, 308)

PARTS = (
    Part("left eye", (180, 200, 10), LEFT_EYE_CHAINS),
    Part("left brow", (180, 220, 10), LEFT_BROW_CHAINS),
    Part("right eye", (10, 200, 180), RIGHT_EYE_CHAINS),
    Part("right brow", (10, 220, 180), RIGHT_BROW_CHAINS),
    Part("lower inner lip, first half", (100, 100, 30), (LOWER_LIP_RIGHT,)),
    Part("lower inner lip, second half", (100, 150, 50), (LOWER_LIP_LEFT,)),
    Part("upper inner lip, first half", (120, 100, 200), (UPPER_LIP_RIGHT,)),
    Part("upper inner lip, second half", (150, 120, 100), (UPPER_LIP_LEFT,)),
)
"""In draw order; the invisible (black) jaw line of the release is left out."""

RIGHT_PUPIL, LEFT_PUPIL = 468, 473
PUPILS = (LEFT_PUPIL, RIGHT_PUPIL)
PUPIL_COLOUR: Colour = (255, 0, 0)


def _points(*chains: Chain) -> tuple[int, ...]:
    return tuple(dict.fromkeys(point for chain in chains for point in chain))


LEFT_EYE, RIGHT_EYE = _points(*LEFT_EYE_CHAINS), _points(*RIGHT_EYE_CHAINS)
LEFT_BROW, RIGHT_BROW = _points(*LEFT_BROW_CHAINS), _points(*RIGHT_BROW_CHAINS)
INNER_LIPS = _points(LOWER_LIP_RIGHT, LOWER_LIP_LEFT, UPPER_LIP_RIGHT, UPPER_LIP_LEFT)
OUTER_LIPS = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 185, 40, 39, 37, 0, 267, 269, 270, 409)
LIPS = INNER_LIPS + OUTER_LIPS
RIGHT_IRIS, LEFT_IRIS = (468, 469, 470, 471, 472), (473, 474, 475, 476, 477)

EXPRESSION_POINTS = LEFT_EYE + RIGHT_EYE + LEFT_BROW + RIGHT_BROW + INNER_LIPS + PUPILS
"""Every landmark that the drawing shows."""

LEFT_LIDS = tuple(zip(LEFT_EYE_CHAINS[1][1:-1], LEFT_EYE_CHAINS[0][1:-1], strict=True))
RIGHT_LIDS = tuple(zip(RIGHT_EYE_CHAINS[1][1:-1], RIGHT_EYE_CHAINS[0][1:-1], strict=True))
LIP_PAIRS = tuple(zip((*UPPER_LIP_RIGHT[1:], *UPPER_LIP_LEFT[1:-1]), (*LOWER_LIP_RIGHT[1:], *LOWER_LIP_LEFT[1:-1]),
                      strict=True))  # fmt: skip
"""(upper, lower) landmarks that meet when an eye or the mouth closes."""


class Eye(NamedTuple):
    """One eye: its contour, (outer, inner) corner, (upper, lower) lid pairs, and iris (pupil first, then the rim)."""

    contour: Chain
    corners: tuple[int, int]
    lids: tuple[tuple[int, int], ...]
    iris: Chain


EYES = (Eye(RIGHT_EYE, (33, 133), RIGHT_LIDS, RIGHT_IRIS), Eye(LEFT_EYE, (263, 362), LEFT_LIDS, LEFT_IRIS))

JAW = (
    21, 162, 127, 234, 93, 132, 58, 172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397, 288, 361, 323, 454,
    356, 389,
)  # fmt: skip
"""Temples and jaw; closed by the straight line 389–21 below the forehead."""

OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148, 176, 149, 150,
    136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
"""The whole face, forehead included (up to the hairline, not the hair)."""

MOUTH_CORNERS = (78, 308)

CONTOUR = Part("contour", (255, 255, 255), (JAW,))
PLAIN_PARTS = (
    CONTOUR,
    Part("nose", (200, 120, 200), ((168, 6, 197, 195, 5, 4), (98, 97, 2, 326, 327))),
    *PARTS,
    Part("lower outer lip", (10, 180, 20), ((61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291),)),
    Part("upper outer lip", (20, 80, 100), ((61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291),)),
)
"""What ablations draw (Follow-Your-Emoji, table 2): the face's contour, from temple to temple; and the parts of plain 2-D
landmarks as older systems use them. The choice of points and colours for these is ours."""


def index(points: Chain) -> np.ndarray:
    """An index array for `landmarks[..., index(points), :]`."""
    return np.asarray(points, np.intp)
