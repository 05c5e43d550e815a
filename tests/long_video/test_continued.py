"""Clips that go on from each other: which features each gets, and that a resumed run is the same run."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.errors import ConfigError
from portrait_jax.long_video.continued import clip_count, clip_features, sample_continued


def test_each_clip_gets_its_own_features_behind_those_of_the_frames_it_repeats():
    features = jnp.arange(1.0, 11)[None, :, None]
    clips = clip_features(features, length=5, overlap=2)[:, 0, :, 0]
    assert clips.tolist() == [[0, 0, 1, 2, 3], [2, 3, 4, 5, 6], [5, 6, 7, 8, 9], [8, 9, 10, 10, 10]]
    assert len(clips) == clip_count(10, 5, 2)


def test_a_clip_without_a_new_frame_is_refused():
    with pytest.raises(ConfigError, match="at least one new frame"):
        clip_count(10, 2, 2)


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
