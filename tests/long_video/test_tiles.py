"""Protects: jointly denoised windows cover every frame at every step, and only those that share frames are one group."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portrait_jax.errors import ConfigError
from portrait_jax.long_video.tiles import (
    Tiles,
    gaussian_tiles,
    random_offsets,
    shifted_tiles,
    uniform_windows,
    wrapped_tiles,
)


@st.composite
def arrangements(draw) -> Tiles:
    frames, length = draw(st.integers(1, 200)), draw(st.integers(1, 40))
    overlap = draw(st.integers(0, length - 1))
    kind = draw(st.sampled_from(["wrapped", "gaussian", "shifted"]))
    if kind == "wrapped":
        return wrapped_tiles(frames, length)
    if kind == "gaussian":
        return gaussian_tiles(frames, length, overlap)
    return shifted_tiles(frames, length, overlap, draw(st.lists(st.integers(0, 60), min_size=1, max_size=4)))


@given(arrangements())
def test_every_frame_lies_under_windows_whose_shares_add_up_to_one(tiles):
    for step in range(len(tiles.offsets)):
        total = np.bincount(tiles.at(step).ravel(), tiles.share.ravel(), tiles.frames)
        np.testing.assert_allclose(total, 1)
        assert all(len(set(window)) == tiles.length for window in tiles.at(step).tolist())


@given(arrangements())
def test_groups_share_no_frame_at_any_step_and_are_in_order_of_their_first(tiles):
    under = [tiles.under(group) for group in range(tiles.count)]
    np.testing.assert_array_equal(np.sort(np.concatenate(under)), np.arange(tiles.frames))
    firsts = [tiles.first_frame(group) for group in range(tiles.count + 1)]
    assert firsts == sorted(set(firsts)) and firsts[0] == 0 and firsts[-1] == tiles.frames
    np.testing.assert_array_equal(np.sort(np.concatenate(tiles.groups)), np.arange(len(tiles.index)))
    for step in range(len(tiles.offsets)):
        for frames, windows in zip(under, tiles.groups, strict=True):
            assert set(tiles.at(step)[windows].ravel()) == set(frames)


def test_wrapped_windows_stand_side_by_side_and_the_last_goes_on_with_the_first_frames():
    assert wrapped_tiles(10, 6).index.tolist() == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 0, 1]]
    assert wrapped_tiles(5, 24).index.tolist() == [[0, 1, 2, 3, 4]]
    long = wrapped_tiles(101, 24)
    assert [group.tolist() for group in long.groups] == [[0, 4], [1], [2], [3]]
    assert long.held(1).tolist() == [96, 97, 98, 99, 100] == long.held(3).tolist() and long.held(0).size == 0
    assert [group.tolist() for group in wrapped_tiles(96, 24).groups] == [[0], [1], [2], [3]]


def test_gaussian_windows_end_with_the_video_and_weigh_most_in_their_middle():
    tiles = gaussian_tiles(11, 6, 2)
    assert tiles.index[:, 0].tolist() == [0, 4, 5] and tiles.count == 1
    ratio = tiles.weight[2] / tiles.weight[0]
    assert ratio == pytest.approx(np.exp((2.5**2 - 0.5**2) / (2 * 0.01 * 6**2)))
    assert gaussian_tiles(14, 6, 2).index[:, 0].tolist() == [0, 4, 8]


def test_shifted_windows_lie_elsewhere_at_every_step_and_run_around_the_end():
    tiles = shifted_tiles(10, 4, 0, [0, 3])
    assert tiles.at(0).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 1]]
    assert tiles.at(1).tolist() == [[3, 4, 5, 6], [7, 8, 9, 0], [1, 2, 3, 4]]
    assert shifted_tiles(8, 4, 0, [0, 0]).count == 2 and shifted_tiles(8, 4, 0, [0, 1]).count == 1
    with pytest.raises(ConfigError, match="move for 2 steps have no place at step 2"):
        tiles.at(2)


def test_a_short_video_is_one_window_that_stays_where_it_is():
    tiles = shifted_tiles(5, 5, 1, [2, 3])
    assert tiles.at(0).tolist() == tiles.at(7).tolist() == [[0, 1, 2, 3, 4]]


def test_windows_of_every_second_frame_count_as_often_as_they_see_a_frame():
    tiles = shifted_tiles(6, 4, 1, [0, 2], strides=2)
    assert any(len(set(window)) < 4 for window in tiles.index.tolist())
    np.testing.assert_allclose(np.bincount(tiles.at(1).ravel(), tiles.share.ravel(), 6), 1)


def test_offsets_lie_within_a_window_and_are_always_the_same():
    offsets = random_offsets(200, 5)
    assert set(offsets) == set(range(5))
    np.testing.assert_array_equal(offsets, random_offsets(200, 5))
    assert (offsets != random_offsets(200, 5, seed=1)).any()


@pytest.mark.parametrize(
    "make",
    [
        lambda frames: wrapped_tiles(frames, 0),
        lambda frames: gaussian_tiles(frames, 4, 4),
        lambda frames: shifted_tiles(frames, 4, 4, [0]),
        lambda frames: uniform_windows(frames, 4, -1),
    ],
)
def test_impossible_windows_are_refused_with_what_to_change(make):
    with pytest.raises(ConfigError, match="0 <= overlap < length.*longer windows or a smaller overlap"):
        make(9)


def test_a_video_without_frames_is_refused():
    with pytest.raises(ConfigError, match="at least one frame"):
        wrapped_tiles(0, 4)
