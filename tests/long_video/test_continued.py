"""Clips that go on from each other: which features each gets, and that a resumed run is the same run."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.errors import ConfigError
from portrait_jax.long_video.continued import Clips, clip_features, sample_continued


def test_each_clip_gets_its_own_features_behind_those_of_the_frames_it_repeats():
    features = jnp.arange(1.0, 11)[None, :, None]
    clips = clip_features(features, length=5, overlap=2)[:, 0, :, 0]
    assert clips.tolist() == [[0, 0, 1, 2, 3], [2, 3, 4, 5, 6], [5, 6, 7, 8, 9], [8, 9, 10, 10, 10]]
    plan = Clips(10, 5, 2)
    assert len(clips) == plan.count
    # Number −1, before the first frame, is a zero.
    np.testing.assert_array_equal(clips, np.concatenate([features[0, :, 0], [0]])[plan.told(0, plan.count)])
    np.testing.assert_array_equal(plan.told(1, 2), plan.told(0, plan.count)[1:3])


def test_new_frames_of_all_clips_are_those_of_the_video():
    plan = Clips(10, 5, 2)
    assert [plan.first_frame(clip) for clip in range(plan.count + 1)] == [0, 3, 6, 9, 10]
    assert plan.borders.tolist() == [3, 6, 9] and Clips(3, 5, 2).borders.tolist() == []


def test_clips_without_a_new_frame_or_one_to_go_on_from_are_refused():
    for overlap in (2, 0):
        with pytest.raises(ConfigError, match="leave one that is new"):
            Clips(10, 2, overlap)
    with pytest.raises(ConfigError, match="at least one frame"):
        Clips(0, 5, 2)


def test_clips_go_on_from_the_last_frames_and_a_resumed_run_is_the_same():
    def clip(motion, told, key):
        noise = jax.random.normal(key, (1, 3, 1, 1, 1))
        return jnp.concatenate([motion, motion[:, -1:] + told + noise], axis=1)

    carry, told = jnp.zeros((1, 2, 1, 1, 1)), jnp.arange(4.0)
    _, whole = sample_continued(clip, carry, told, jax.random.key(0))
    assert whole.shape == (1, 12, 1, 1, 1)
    carry, start = sample_continued(clip, carry, told[:1], jax.random.key(0))
    np.testing.assert_array_equal(carry, start[:, -2:])
    _, rest = sample_continued(clip, carry, told[1:], jax.random.key(0), first=1)
    np.testing.assert_allclose(jnp.concatenate([start, rest], axis=1), whole, atol=1e-6)
