"""Motion intensity: what counts as movement of the head and of the expression, by both rules, and what is refused."""

import numpy as np
import pytest

from portrait_jax.errors import ConfigError, ShapeError
from portrait_jax.face.intensity import IntensityConfig, frame_levels, motion_levels

STILL = np.array([[10, 10], [50, 10], [30, 30], [15, 50], [45, 50]], float)


def clip(frames: int = 6) -> np.ndarray:
    return np.tile(STILL, (frames, 1, 1))


@pytest.mark.parametrize("rule", ["released", "paper"])
def test_a_moving_head_is_no_expression_and_the_other_way_round(rule):
    assert motion_levels(clip(), IntensityConfig(rule)) == (0, 0)
    turned = clip() + np.arange(6)[:, None, None]
    head, expression = motion_levels(turned, IntensityConfig(rule))
    assert head > 0 and expression == 0
    smiling = clip()
    smiling[::2, 3:, 1] -= 4
    head, expression = motion_levels(smiling, IntensityConfig(rule))
    assert head == 0 and expression > 0


def test_larger_faces_count_less_and_levels_end():
    moving = clip() + 5 * np.arange(6)[:, None, None]
    assert motion_levels(3 * moving) == motion_levels(moving)
    assert motion_levels(clip() + 1000 * np.arange(6)[:, None, None])[0] == 127


def test_the_paper_takes_roots_of_mean_squares():
    """One frame of two lies 8 pixels off: mean distance and root mean square are both 4, sizes are √2·40 and 40."""
    moved = clip(2)
    moved[1] += (8, 0)
    options = {"levels": 10_000, "factors": (1000.0, 1.0)}
    assert motion_levels(moved, IntensityConfig("paper", **options))[0] == 100
    assert motion_levels(moved, IntensityConfig(**options))[0] == int(1000 * 4 / np.hypot(40, 40))


def test_frames_have_the_level_of_their_stretch():
    points = np.concatenate([clip(3), clip(2) + np.array([[[0, 0]], [[20, 0]]])])
    head, expression = frame_levels(points, 3)
    assert head[:3].tolist() == [0, 0, 0] and head[3] == head[4] > 0 and not expression.any()
    assert head.dtype == np.int32


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ShapeError, match="at least one frame"):
        motion_levels(clip(0))
    with pytest.raises(ShapeError, match="do not coincide"):
        motion_levels(np.zeros((2, 5, 2)))
    with pytest.raises(ConfigError, match="did you mean 'paper'"):
        IntensityConfig("papper")
    for wrong in ({"levels": 0}, {"factors": (1.0, 0.0)}):
        with pytest.raises(ConfigError, match="two positive factors"):
            IntensityConfig(**wrong)
    with pytest.raises(ConfigError, match="65 are more than the 64 of motion_memory.levels"):
        IntensityConfig(levels=65).check_known(64)
