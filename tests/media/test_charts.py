"""Charts show every course in its colour, within the frame, and name what does not fit."""

import numpy as np
import pytest

from portrait_jax.errors import ShapeError
from portrait_jax.media.charts import COLOURS, line_chart


def drawn(chart: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return np.argwhere((chart == colour).all(-1))


def test_a_rising_and_a_falling_course_cross():
    chart = line_chart([0, 1, 2], {"up": [0, 1, 2], "down": [2, 1, 0]}, "title", "time", (320, 200))
    assert chart.shape == (200, 320, 3)
    for colour, sign in ((COLOURS[0], -1), (COLOURS[1], 1)):
        points = drawn(chart, colour)
        right = points[points[:, 1] > 160]
        assert np.sign(np.corrcoef(right.T)[0, 1]) == sign


def test_gaps_and_constants_are_drawn():
    chart = line_chart([0, 3, 5, 9], {"flat": [1.0, 1.0, float("nan"), 1.0]}, "", "", (320, 200))
    assert len(drawn(chart, COLOURS[0])) > 0


def test_a_course_of_another_length_is_named():
    with pytest.raises(ShapeError, match="'a' has 2 values at 3 places"):
        line_chart([0, 1, 2], {"a": [0, 1]}, "", "")
