"""Protects animation by keyframes: all frames in order, chunks of keyframes alone, going on after an interruption."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest

from portrait_jax.animation import Animator
from portrait_jax.animation.landmarks import drawn
from portrait_jax.errors import ConfigError
from tests import tiny

FRAMES = 8
PORTRAIT = np.random.default_rng(0).integers(0, 256, (tiny.SIZE, tiny.SIZE, 3), dtype=np.uint8)
CONTROL = np.random.default_rng(1).integers(0, 256, (FRAMES, tiny.SIZE, tiny.SIZE, 3), dtype=np.uint8)


def make_animator(strategy: str = "progressive", **settings: int) -> Animator:
    system = tiny.make_system()
    sampling = replace(system.sampling, strategy=strategy, window=4, steps=1, guidance=1.0)
    system = replace(system, sampling=sampling)
    return Animator(system, tiny.make_params(system), windows_per_chunk=1, **settings)


@pytest.fixture(scope="module")
def animator() -> Animator:
    return make_animator()


@pytest.fixture(scope="module")
def parts(animator):
    return list(animator.frames(PORTRAIT, drawn(CONTROL.__getitem__), FRAMES, seed=3))


def test_every_frame_comes_out_and_keyframes_wait_for_what_lies_between(animator, parts):
    assert [len(frames) for frames, _ in parts] == [0, 3, 3, 2]
    assert [position.window for _, position in parts] == [1, 2, 3, 4]
    video = np.concatenate([frames for frames, _ in parts])
    assert video.shape == (FRAMES, tiny.SIZE, tiny.SIZE, 3) and video.dtype == np.uint8
    assert (np.abs(np.diff(video.astype(int), axis=0)).max(axis=(1, 2, 3)) > 0).all()
    assert [animator.plan(FRAMES).first_frame(unit) for unit in range(5)] == [0, 0, 3, 6, 8]


@pytest.mark.parametrize("after", [0, 2])
def test_going_on_after_an_interruption_gives_the_same_frames(animator, parts, after):
    position = parts[after][1]
    rest = list(animator.frames(PORTRAIT, drawn(CONTROL.__getitem__), FRAMES, seed=3, start=position))
    for (again, _), (frames, _) in zip(rest, parts[after + 1 :], strict=True):
        np.testing.assert_array_equal(again, frames)


def test_a_stored_carry_has_the_same_tree_for_every_length(animator, parts):
    """`parts.load_position` rebuilds it without knowing how long the video is."""
    short = jax.tree.structure(animator.blank(animator.plan(1)))
    assert short == jax.tree.structure(parts[0][1].carry)


def test_a_strategy_that_does_not_exist_is_named():
    with pytest.raises(ConfigError, match="did you mean 'progressive'"):
        make_animator("progresive").plan(5)
