"""Small line charts as pictures, for reports: no plotting library is needed to look at a few courses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from portrait_jax.errors import ShapeError
from portrait_jax.typing import Image

COLOURS = ((31, 90, 166), (200, 80, 20), (40, 130, 60), (130, 60, 150), (110, 110, 110))
GREY, BLACK = (205, 205, 205), (40, 40, 40)
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 34, 46
TICKS = 5


def line_chart(
    places: Sequence[float | int],
    courses: Mapping[str, Sequence[float | int]],
    title: str,
    label: str,
    size: tuple[int, int] = (640, 400),
) -> Image:
    """Courses over common places on the horizontal axis, each in a colour of its own, with its name.

    Args:
        places: at least two, ascending.
        courses: name → one value per place; gaps (not a number) interrupt the line.
        label: of the horizontal axis.
        size: width and height in pixels.

    Raises:
        ShapeError: if a course has another number of values.
    """
    for name, values in courses.items():
        if len(values) != len(places):
            raise ShapeError(f"the course '{name}' has {len(values)} values at {len(places)} places; give one for each")
    picture = PillowImage.new("RGB", size, (255, 255, 255))
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default()
    finite = np.array([value for values in courses.values() for value in values if np.isfinite(value)] or [0.0, 1.0])
    low, high = float(finite.min()), float(finite.max())
    room = max(0.06 * (high - low), 1e-6)
    low, high = low - room, high + room

    def across(place: float | int) -> float:
        return LEFT + (place - places[0]) / (places[-1] - places[0]) * (size[0] - LEFT - RIGHT)

    def down(value: float | int) -> float:
        return size[1] - BOTTOM - (value - low) / (high - low) * (size[1] - TOP - BOTTOM)

    for value in np.linspace(low, high, TICKS):
        pen.line([(LEFT, down(value)), (size[0] - RIGHT, down(value))], fill=GREY)
        pen.text((LEFT - 6, down(value)), f"{value:.3g}", fill=BLACK, font=font, anchor="rm")
    for place in np.linspace(places[0], places[-1], TICKS):
        pen.text((across(place), size[1] - BOTTOM + 6), f"{place:.4g}", fill=BLACK, font=font, anchor="ma")
    pen.text((size[0] / 2, 8), title, fill=BLACK, font=font, anchor="ma")
    pen.text((size[0] / 2, size[1] - 18), label, fill=BLACK, font=font, anchor="ma")
    for number, (name, values) in enumerate(courses.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = [(across(x), down(y)) if np.isfinite(y) else None for x, y in zip(places, values)]
        for before, after in zip(points[:-1], points[1:]):
            if before and after:
                pen.line([before, after], fill=colour, width=2)
        for x, y in filter(None, points):  # A value between two gaps has no line.
            pen.ellipse((x - 1, y - 1, x + 1, y + 1), fill=colour)
        pen.text((LEFT + 8, TOP + 4 + 14 * number), name, fill=colour, font=font)
    return np.asarray(picture)
