"""Protects: jointly denoised windows cover every frame, agree where they meet, and are as far apart as they can be."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portrait_jax.conditioning import Conditioning
from portrait_jax.diffusion.guidance import identity
from portrait_jax.diffusion.sampler import sample
from portrait_jax.diffusion.schedule import make_schedule
from portrait_jax.diffusion.solvers import SOLVERS, make_solver
from portrait_jax.errors import ConfigError
from portrait_jax.long_video.joint import Tiles, gaussian_tiles, joint_steps, wrapped_tiles

SCHEDULE = make_schedule("scaled_linear", zero_terminal_snr=True)


@st.composite
def arrangements(draw) -> Tiles:
    frames, length = draw(st.integers(1, 200)), draw(st.integers(1, 40))
    if draw(st.booleans()):
        return wrapped_tiles(frames, length)
    return gaussian_tiles(frames, length, draw(st.integers(0, length - 1)))


@given(arrangements())
def test_every_frame_lies_under_windows_whose_shares_add_up_to_one(tiles):
    total = np.bincount(tiles.index.ravel(), tiles.share().ravel(), tiles.frames)
    np.testing.assert_allclose(total, 1)
    assert all(len(set(window)) == tiles.length for window in tiles.index.tolist())


@given(arrangements())
def test_groups_share_no_frame_and_are_in_order_of_their_first(tiles):
    under = [tiles.under(group) for group in range(tiles.count)]
    np.testing.assert_array_equal(np.sort(np.concatenate(under)), np.arange(tiles.frames))
    firsts = [tiles.first_frame(group) for group in range(tiles.count + 1)]
    assert firsts == sorted(set(firsts)) and firsts[0] == 0 and firsts[-1] == tiles.frames
    np.testing.assert_array_equal(np.sort(np.concatenate(tiles.groups)), np.arange(len(tiles.index)))


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


@pytest.mark.parametrize("make", [lambda frames: wrapped_tiles(frames, 0), lambda frames: gaussian_tiles(frames, 4, 4)])
def test_impossible_windows_are_refused_with_what_to_change(make):
    with pytest.raises(ConfigError, match="0 <= overlap < length"):
        make(9)


def test_a_video_without_frames_is_refused():
    with pytest.raises(ConfigError, match="at least one frame"):
        wrapped_tiles(0, 4)


# Sampling, with a network that sees which window a frame lies in


def predicted(frames, x, step):
    """All frames of a window act on each other, as a temporal module lets them."""
    return jnp.tanh(
        x * (1 + 0.1 * step) + x.mean(axis=1, keepdims=True) + jnp.asarray(frames)[:, None, None, None] / 10
    )


def solver_of(name="ddim", steps=4):
    return make_solver(name, SCHEDULE, steps, previous="stride")


def noise(frames: int) -> jax.Array:
    return jax.random.normal(jax.random.key(frames), (1, frames, 2, 2, 3))


def sampled(tiles: Tiles, solver) -> np.ndarray:
    result, start = np.zeros((1, tiles.frames, 2, 2, 3), np.float32), noise(tiles.frames)
    for group in range(tiles.count):
        frames = tiles.under(group)
        *_, state = joint_steps(predicted, solver.init(start[:, frames]), tiles, group, solver)
        result[:, frames] = solver.result(state)
    return result


@pytest.mark.parametrize("name", SOLVERS)
def test_one_window_is_plain_sampling(name):
    solver, tiles = solver_of(name), wrapped_tiles(5, 8)

    def denoise(x, timestep, conditioning):
        step = jnp.argmax(jnp.asarray(solver.timesteps) == timestep[0])
        return predicted(np.arange(5), x, step)

    expected = sample(denoise, noise(5), {"cond": Conditioning()}, solver, identity())
    np.testing.assert_allclose(sampled(tiles, solver), expected, atol=2e-6)


def test_averaging_predictions_is_averaging_ddim_steps():
    """The original of the Gaussian windows averages the latents that each window's own step gives."""
    tiles, solver = gaussian_tiles(11, 6, 2), solver_of()
    x, weight = noise(11), tiles.weight[:, None, None, None]
    for step in range(solver.steps):
        total, count = np.zeros(x.shape), np.zeros((11, 1, 1, 1))
        for window in tiles.index:
            stepped = solver.step(x[:, window], predicted(window, x[:, window], step), step)
            total[:, window] += weight * stepped
            count[window] += weight
        x = jnp.asarray(total / count, jnp.float32)
    np.testing.assert_allclose(sampled(tiles, solver), x, atol=1e-5)


def test_windows_of_a_group_act_on_each_other():
    solver, tiles = solver_of(), wrapped_tiles(20, 6)
    first = tiles.under(0)
    assert first.tolist() == [0, 1, 2, 3, 4, 5, 18, 19]
    x = noise(20)[:, first].at[:, 0].add(1)
    *_, state = joint_steps(predicted, solver.init(x), tiles, 0, solver)
    changed = np.abs(np.asarray(solver.result(state)) - sampled(tiles, solver)[:, first]).max(axis=(0, 2, 3, 4))
    assert (changed > 1e-4).all(), "frames 18 and 19 hear of frame 0 by the window that they share with it"


def test_going_on_from_a_step_gives_the_same():
    solver, tiles = solver_of("dpmpp_2m"), gaussian_tiles(11, 6, 2)
    states = list(joint_steps(predicted, solver.init(noise(11)), tiles, 0, solver))
    *_, again = joint_steps(predicted, jax.tree.map(np.asarray, states[1]), tiles, 0, solver, first=2)
    np.testing.assert_array_equal(solver.result(again), solver.result(states[-1]))


def test_a_stochastic_solver_is_refused():
    solver = make_solver("ddim", SCHEDULE, 3, eta=1.0)
    with pytest.raises(ConfigError, match="set eta to 0"):
        next(joint_steps(predicted, noise(5), wrapped_tiles(5, 5), 0, solver))
