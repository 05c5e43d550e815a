"""Protects the measures of long videos: each sees its own fault and no other."""

import numpy as np
import pytest

from portrait_jax.errors import ShapeError
from portrait_jax.metrics.long_video import METRICS, colour_shift, detail, growth, measure

FRAMES, STRIDE, OVERLAP = 60, 10, 3
BORDERS = np.arange(STRIDE, FRAMES, STRIDE)
BLENDED = np.concatenate([border + np.arange(OVERLAP) for border in BORDERS])


def moving(offsets) -> np.ndarray:
    """A textured picture that moves sideways by the given pixels."""
    texture = np.random.default_rng(0).integers(0, 256, (24, 200, 3))
    texture = (texture + np.roll(texture, 1, axis=1) + np.roll(texture, -1, axis=1)) // 3
    return np.stack([np.roll(texture, -int(x), axis=1)[:, :32] for x in offsets]).astype(np.uint8)


PATH = np.cumsum(np.random.default_rng(1).integers(1, 3, FRAMES))
TRUTH = moving(PATH)


def scores(result) -> dict[str, float]:
    return measure(result, TRUTH, BORDERS, BLENDED)


def test_the_truth_has_no_fault():
    found = scores(TRUTH)
    assert found == {
        "smoothness": 1,
        "seam_jump": 1,
        "contrast": 1,
        **dict.fromkeys(("ghosting", "l1", "drift", "colour_drift", "colour_shift"), 0),
    }
    assert found.keys() == METRICS.keys()


def test_jumps_at_borders_are_seen_and_those_elsewhere_count_against():
    at = moving(PATH + 8 * np.searchsorted(BORDERS, np.arange(FRAMES), side="right"))
    elsewhere = moving(PATH + 8 * np.searchsorted(BORDERS + 5, np.arange(FRAMES), side="right"))
    assert scores(at)["seam_jump"] > 1.2 and scores(elsewhere)["seam_jump"] < 0.95
    assert abs(scores(at)["ghosting"]) < 5


def test_double_images_at_borders_are_ghosts_and_blur_everywhere_is_not():
    double = (TRUTH.astype(int) + moving(PATH + 5)) // 2
    ghosts = TRUTH.copy()
    ghosts[BLENDED] = double[BLENDED]
    assert scores(ghosts)["ghosting"] > 20
    assert abs(scores(double.astype(np.uint8))["ghosting"]) < 5
    assert (detail(double.astype(np.uint8)) < detail(TRUTH)).all()


def test_errors_that_grow_are_drift_and_constant_ones_are_not():
    fading = np.clip(TRUTH + np.linspace(0, 40, FRAMES)[:, None, None, None], 0, 255).astype(np.uint8)
    shifted = np.clip(TRUTH.astype(int) + 20, 0, 255).astype(np.uint8)
    assert scores(fading)["drift"] > 0.1 and scores(fading)["colour_drift"] > 0.1
    assert scores(shifted)["l1"] > 0.05
    assert abs(scores(shifted)["drift"]) < 0.01 and abs(scores(shifted)["colour_drift"]) < 0.01


def test_colours_that_move_towards_the_truth_have_moved():
    offset = np.stack([np.linspace(-0.3, 0, FRAMES), np.full(FRAMES, 0.2), np.linspace(0, 0.3, FRAMES)], axis=1)
    assert growth(np.abs(offset).mean(axis=1)) == pytest.approx(0)
    assert colour_shift(offset) == pytest.approx(0.2)
    assert colour_shift(offset[:1].repeat(FRAMES, axis=0)) == pytest.approx(0)


def test_colours_that_run_apart_or_fade_show_in_contrast_and_not_in_the_mean():
    """About each frame's own mean colour, so that the mean stays."""
    mean = TRUTH.mean(axis=(1, 2), keepdims=True)
    for end in (1.5, 0.5):
        factor = np.linspace(1, end, FRAMES)[:, None, None, None]
        changed = np.round(mean + 0.5 * factor * (TRUTH - mean)).astype(np.uint8)
        found = scores(changed)
        assert found["contrast"] == pytest.approx(end, rel=0.02)
        assert found["colour_shift"] < 0.004


def test_growth_is_the_rise_of_the_fitted_line():
    assert growth(np.linspace(2, 5, 40)) == pytest.approx(3)
    assert growth(np.array([0.0, 1.0] * 20)) == pytest.approx(0.0, abs=0.1)
    assert growth(np.array([4.0])) == 0


def test_a_video_without_borders_has_no_number_for_them():
    found = measure(TRUTH, TRUTH, np.array([], int), np.array([0, -1, 1000]))
    assert np.isnan(found["seam_jump"]) and found["ghosting"] == 0
    assert np.isnan(measure(TRUTH, TRUTH, BORDERS, np.arange(FRAMES))["ghosting"])


def test_videos_of_other_lengths_are_refused():
    with pytest.raises(ShapeError, match="must be equal"):
        scores(TRUTH[:-1])
