"""The ring: every frame is covered at every step, seams move, motion fades at both ends."""

import numpy as np
import pytest

from portrait_jax.errors import ConfigError
from portrait_jax.long_video.ring import ring_offsets, ring_tiles, ring_windows


def test_windows_of_the_release_cover_the_ring_and_run_around_its_end():
    windows = ring_windows(60, 25, 3)
    assert windows[:, 0].tolist() == [0, 22, 44]
    assert windows[2, -9:].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert set(windows.ravel()) == set(range(60))
    assert ring_windows(4, 5, 2)[0].tolist() == [0, 1, 2, 3, 0]


def test_windows_move_back_by_a_few_frames_at_each_step():
    offsets = ring_offsets(12, 25, 3)
    assert offsets[:3].tolist() == [0, -3, -6] and offsets[9:].tolist() == [-2, -5, -8]


def test_ends_fade_from_and_to_nothing_and_are_not_shown():
    ring = ring_tiles(3, 5, 2, 4, 1, ends=4)
    frames = np.arange(ring.frames)
    assert ring.shown(frames).tolist() == [0] * 5 + [1] + [2] * 5
    np.testing.assert_allclose(ring.strength(frames), [0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 0.75, 0.5, 0.25])
    assert [ring.first_frame(group) for group in range(ring.count + 1)] == [0, 3]
    whole = ring_tiles(3, 5, 2, 4, 1)
    assert whole.frames == 3 and whole.strength(np.arange(3)).tolist() == [1, 1, 1]


def test_impossible_overlaps_are_refused():
    with pytest.raises(ConfigError, match="0 <= overlap < length"):
        ring_windows(10, 5, 5)
