"""Protects: jointly denoised windows agree where they meet, and one window is ordinary sampling."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.conditioning import Conditioning
from portrait_jax.diffusion.guidance import classifier_free, identity
from portrait_jax.diffusion.sampler import sample
from portrait_jax.diffusion.schedule import make_schedule
from portrait_jax.diffusion.solvers import SOLVERS, make_solver
from portrait_jax.errors import ConfigError, ShapeError
from portrait_jax.long_video.joint import averaged, denoise_group, sample_joint
from portrait_jax.long_video.tiles import Tiles, gaussian_tiles, shifted_tiles, wrapped_tiles

SCHEDULE = make_schedule("scaled_linear", zero_terminal_snr=True)


# Sampling, with a network that sees which window a frame lies in


def predicted(frames, x, step):
    """All frames of a window act on each other, as a temporal module lets them."""
    return jnp.tanh(
        x * (1 + 0.1 * step) + x.mean(axis=1, keepdims=True) + jnp.asarray(frames)[..., None, None, None] / 10
    )


def solver_of(name="ddim", steps=4):
    return make_solver(name, SCHEDULE, steps, previous="stride")


def noise(frames: int) -> jax.Array:
    return jax.random.normal(jax.random.key(frames), (1, frames, 2, 2, 3))


def sampled(tiles: Tiles, solver) -> np.ndarray:
    result, start = np.zeros((1, tiles.frames, 2, 2, 3), np.float32), noise(tiles.frames)
    for group in range(tiles.count):
        frames = tiles.under(group)
        *_, state = denoise_group(predicted, solver.init(start[:, frames]), tiles, group, solver)
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
    *_, state = denoise_group(predicted, solver.init(x), tiles, 0, solver)
    changed = np.abs(np.asarray(solver.result(state)) - sampled(tiles, solver)[:, first]).max(axis=(0, 2, 3, 4))
    assert (changed > 1e-4).all(), "frames 18 and 19 hear of frame 0 by the window that they share with it"


def test_frames_get_the_share_weighted_mean_of_their_windows_wherever_those_lie():
    tiles, x = shifted_tiles(7, 4, 1, [0, 2]), noise(7)
    sums, counts = np.zeros(x.shape), np.zeros(7)
    for window in tiles.at(1):
        sums[:, window] += predicted(window, x[:, window], 1)
        counts[window] += 1
    assert counts.max() > 1
    np.testing.assert_allclose(
        averaged(predicted, x, tiles, 0, 1), sums / counts[:, None, None, None], rtol=1e-5, atol=1e-6
    )


def test_going_on_from_a_step_gives_the_same():
    solver, tiles = solver_of("dpmpp_2m"), shifted_tiles(11, 6, 2, [3, 5, 0, 3])
    states = list(denoise_group(predicted, solver.init(noise(11)), tiles, 0, solver))
    *_, again = denoise_group(predicted, jax.tree.map(np.asarray, states[1]), tiles, 0, solver, first=2)
    np.testing.assert_array_equal(solver.result(again), solver.result(states[-1]))


def test_a_stochastic_solver_is_refused():
    solver = make_solver("ddim", SCHEDULE, 3, eta=1.0)
    with pytest.raises(ConfigError, match="set eta to 0"):
        next(denoise_group(predicted, noise(5), wrapped_tiles(5, 5), 0, solver))


# With a network whose conditioning is in memory for all frames


def denoise(params, x, timestep, conditioning):
    """Mixes the frames of a window."""
    return params["gain"] * x + 0.1 * x.mean(1, keepdims=True) + conditioning.motion.mean(-1)[..., None, None]


PARAMS = {"gain": jnp.asarray(0.3)}


def told(frames: int, value: float = 1.0) -> Conditioning:
    motion = value * jnp.arange(frames, dtype=jnp.float32).reshape(1, frames, 1, 1)
    return Conditioning(motion=motion, start=jnp.ones((1, 2, 2, 3)))


@pytest.fixture(scope="module")
def settings():
    solver = make_solver("ddim", make_schedule("scaled_linear"), 3, "epsilon", "leading", offset=1)
    return {"solver": solver, "guidance": classifier_free(2.0)}


def test_a_short_video_around_a_start_is_sampled_as_without_windows(settings):
    branches = {"cond": told(3), "uncond": told(3, 0.0)}
    found = sample_joint(denoise, PARAMS, branches, noise(3), shifted_tiles(3, 8, 2, [1, 2, 3]), **settings)
    expected = sample(partial(denoise, PARAMS), noise(3), branches, **settings)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    elsewhere = {name: value.replace(start=None) for name, value in branches.items()}
    assert np.abs(expected - sample(partial(denoise, PARAMS), noise(3), elsewhere, **settings)).max() > 0.01


@pytest.mark.parametrize(
    "tiles", [wrapped_tiles(11, 2), gaussian_tiles(11, 4, 2), shifted_tiles(11, 4, 1, [1, 2, 0])], ids=lambda x: ""
)
def test_windows_in_batches_give_the_frames_of_windows_one_by_one(settings, tiles):
    """Of two clips; three windows divide none of the numbers of windows here."""
    motion = jnp.concatenate([told(11).motion, -told(11).motion])
    branches = {name: Conditioning(motion=gain * motion) for name, gain in (("cond", 1.0), ("uncond", 0.0))}
    x = jnp.concatenate([noise(11), noise(11)[:, ::-1]])
    sizes = []

    def counting(params, x, *rest):
        sizes.append(len(x))
        return denoise(params, x, *rest)

    batches = replace(tiles, batch=3)
    found = sample_joint(counting, PARAMS, branches, x, batches, **settings)
    np.testing.assert_allclose(found, sample_joint(denoise, PARAMS, branches, x, tiles, **settings), atol=1e-5)
    assert sizes == [2 * 2 * 3], "clips × branches × windows"


def test_groups_are_joined_until_a_batch_is_full_and_a_short_video_is_not_repeated():
    tiles = wrapped_tiles(23, 2)
    assert tiles.count == 11 and replace(tiles, batch=3).count == 4
    assert [windows.tolist() for windows in replace(tiles, batch=3).batches(1)] == [[2, 3, 4]]
    assert [windows.tolist() for windows in replace(tiles, batch=3).batches(3)] == [[8, 9, 10]]
    assert replace(gaussian_tiles(4, 4, 0), batch=8).batched == 1
    (whole,) = replace(gaussian_tiles(8, 4, 0), batch=8).batches(0)
    assert whole.tolist() == [0, 1]


def test_a_long_video_compiles_one_program_and_needs_conditioning_of_all_frames(settings):
    traces = []

    def counting(*args):
        traces.append(1)
        return denoise(*args)

    branches = {"cond": told(9), "uncond": told(9, 0.0)}
    video = sample_joint(counting, PARAMS, branches, noise(9), shifted_tiles(9, 4, 1, [1, 2, 0]), **settings)
    assert (
        len(traces) == 1
        and video.shape == (1, 9, 2, 2, 3)
        and np.abs(np.diff(video, axis=1)).min(axis=(0, 2, 3, 4)).all()
    )
    with pytest.raises(ShapeError, match="covers 9 frames, but the windows cover 11"):
        sample_joint(denoise, PARAMS, branches, noise(11), wrapped_tiles(11, 4), **settings)
