"""Protects feature caching of whole animations: cheaper, resumable, and refused where it would need memory for the whole video."""

from dataclasses import replace

import numpy as np
import pytest

from portrait_jax.animation import Animator
from portrait_jax.animation.landmarks import drawn
from portrait_jax.errors import ConfigError
from portrait_jax.systems.follow_your_emoji import FollowYourEmoji
from tests import tiny

FRAMES = 9
PICTURES = np.random.default_rng(0).integers(0, 256, (60, tiny.SIZE, tiny.SIZE, 3), dtype=np.uint8)


def make(**sampling) -> Animator:
    config = tiny.get_config()
    config.sampling.update({"steps": 3, "windows_per_chunk": 1, "cache_every": 2, "cache_depth": 2})
    config.sampling.update(sampling)
    system = FollowYourEmoji.from_config(config)
    return Animator(system, tiny.make_params(system))


def run(animator, **options):
    return list(animator.frames(PICTURES[-1], drawn(lambda indices: PICTURES[indices]), FRAMES, seed=3, **options))


def joined(chunks) -> np.ndarray:
    return np.concatenate([frames for frames, _ in chunks])


@pytest.fixture(scope="module")
def cached() -> Animator:
    return make()


@pytest.fixture(scope="module")
def done(cached):
    return run(cached)


def test_cached_frames_are_others_than_plain_ones_and_near_them(done):
    plain = make(cache_every=1)
    assert plain.settings["cache_every"] == 1
    found, expected = joined(done).astype(int), joined(run(plain)).astype(int)
    assert found.shape == expected.shape == (FRAMES, tiny.SIZE, tiny.SIZE, 3)
    assert 0 < np.abs(found - expected).mean() < 40


def test_going_on_after_an_interruption_gives_the_frames_of_an_uninterrupted_run(cached, done):
    for number, (_, position) in enumerate(done[:-1], 1):
        np.testing.assert_array_equal(joined(run(cached, start=position)), joined(done[number:]))


@pytest.mark.parametrize("strategy", ["wrapped", "tiled", "shifted", "ring"])
def test_jointly_denoised_windows_are_refused_with_what_to_do(cached, strategy):
    sampling = replace(cached.system.sampling, strategy=strategy)
    with pytest.raises(ConfigError, match=f"'{strategy}'.*use 'overlap', 'prefix' or 'progressive', or set it to 1"):
        Animator(replace(cached.system, sampling=sampling), {}).plan(FRAMES)


def test_a_depth_beyond_the_decoder_is_named(cached):
    with pytest.raises(ConfigError, match="cache_depth 6 must be 1 to 3"):
        run(make(cache_depth=6))
