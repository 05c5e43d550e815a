"""Which of MediaPipe's 478 face points are drawn parts of a portrait, in the order in which they are drawn.

"Left" and "right" are the subject's: right-hand ids lie at image left. Chains run from the outer to the inner corner
(eyes, brows), from image left to image right (lips), and clockwise from the top of the forehead (oval).
"""

NUM_LANDMARKS = 478

OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152,
    148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip

EYE_UPPER = {
    "right": (33, 246, 161, 160, 159, 158, 157, 173, 133),
    "left": (263, 466, 388, 387, 386, 385, 384, 398, 362),
}
EYE_LOWER = {
    "right": (33, 7, 163, 144, 145, 153, 154, 155, 133),
    "left": (263, 249, 390, 373, 374, 380, 381, 382, 362),
}
BROW_UPPER = {"right": (70, 63, 105, 66, 107), "left": (300, 293, 334, 296, 336)}
BROW_LOWER = {"right": (46, 53, 52, 65, 55), "left": (276, 283, 282, 295, 285)}

IRIS = {"right": (468, 469, 470, 471, 472), "left": (473, 474, 475, 476, 477)}
"""Centre, then the four rim points in the order of `IRIS_RIM` (unit vectors, x right, y down)."""
IRIS_RIM = {"right": ((1, 0), (0, -1), (-1, 0), (0, 1)), "left": ((1, 0), (0, -1), (-1, 0), (0, 1))}

LIP_OUTER_UPPER = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291)
LIP_OUTER_LOWER = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291)
LIP_INNER_UPPER = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308)
LIP_INNER_LOWER = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308)

NOSE_RIDGE = (168, 6, 197, 195, 5, 4, 1, 2)
"""From between the eyes over the tip (4, 1) to the base of the septum."""
NOSE_WING = {"right": (49, 48, 64, 98), "left": (279, 278, 294, 327)}
"""From the top of the wing around its outside to the nostril's lower edge."""

SIDES = {"right": -1.0, "left": 1.0}
"""Sign of x (image right is positive) of each of the subject's sides."""
