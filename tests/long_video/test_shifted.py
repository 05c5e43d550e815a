"""Joint windows: where they lie, that shared frames are averaged, and that one window is ordinary sampling."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portrait_jax.conditioning import Conditioning
from portrait_jax.diffusion.guidance import classifier_free, identity
from portrait_jax.diffusion.sampler import sample
from portrait_jax.diffusion.schedule import make_schedule
from portrait_jax.diffusion.solvers import make_solver
from portrait_jax.errors import ConfigError, ShapeError
from portrait_jax.long_video.shifted import joint_predictor, random_offsets, sample_joint, uniform_windows

SOLVER = make_solver("ddim", make_schedule("scaled_linear"), 3, "epsilon", "leading", offset=1)


def denoise(x, timestep, conditioning):
    """A toy that mixes the frames of a window."""
    return 0.3 * x + 0.1 * x.mean(1, keepdims=True) + conditioning.motion.mean(-1)[..., None, None]


def told(frames: int, value: float = 1.0) -> Conditioning:
    motion = value * jnp.arange(frames, dtype=jnp.float32).reshape(1, frames, 1, 1)
    return Conditioning(motion=motion, start=jnp.ones((1, 2, 2, 3)))


@given(st.integers(1, 200), st.integers(2, 40), st.integers(0, 60), st.data())
def test_windows_cover_every_frame_wherever_they_are_shifted(frames, length, offset, data):
    overlap = data.draw(st.integers(0, length - 1))
    windows = (uniform_windows(frames, length, overlap) + offset) % frames
    assert set(windows.ravel()) == set(range(frames))
    assert windows.shape[1] == min(frames, length)


def test_frames_in_several_windows_get_the_mean_of_their_predictions():
    windows, frames = uniform_windows(7, 4, 1), 7
    predict = joint_predictor(denoise, {"cond": told(frames)}, identity(), windows, frames)
    x = jax.random.normal(jax.random.key(0), (1, frames, 2, 2, 3))
    found = jax.jit(predict)(x, jnp.asarray(5), jnp.asarray(2))["cond"]
    shifted, sums, counts = (windows + 2) % frames, np.zeros(x.shape), np.zeros(frames)
    for window in shifted:
        sums[:, window] += denoise(x[:, window], 5, told(frames).take(jnp.asarray(window)))
        counts[window] += 1
    assert counts.max() > 1
    np.testing.assert_allclose(found, sums / counts[:, None, None, None], atol=1e-5)


def test_a_short_video_is_sampled_as_without_windows():
    branches, rule = {"cond": told(3), "uncond": told(3, 0.0)}, classifier_free(2.0)
    noise = jax.random.normal(jax.random.key(0), (1, 3, 2, 2, 3))
    run = partial(sample_joint, denoise, branches, solver=SOLVER, guidance=rule, windows=uniform_windows(3, 8, 2))
    np.testing.assert_allclose(
        jax.jit(run)(noise, jnp.zeros(3, int)),
        jax.jit(lambda x: sample(denoise, x, branches, SOLVER, rule))(noise),
        atol=1e-5,
    )


def test_sampling_starts_around_given_latents():
    noise = jnp.zeros((1, 3, 2, 2, 3))
    state = SOLVER.init(noise, told(3).start[:, None])
    np.testing.assert_allclose(state, SOLVER.grid.alpha[0], rtol=1e-6)
    np.testing.assert_array_equal(SOLVER.init(noise + 2.0), 2.0)


def test_offsets_lie_within_a_window_and_a_single_one_stays():
    offsets = np.asarray(random_offsets(jax.random.key(0), 200, uniform_windows(9, 5, 1)))
    assert set(offsets) == set(range(5))
    assert not np.any(random_offsets(jax.random.key(0), 200, uniform_windows(5, 5, 1)))


def test_what_does_not_fit_is_refused():
    rule, noise = identity(), jnp.zeros((1, 7, 2, 2, 3))
    run = partial(sample_joint, denoise, {"cond": told(7)}, noise, guidance=rule, windows=uniform_windows(7, 4, 1))
    with pytest.raises(ConfigError, match="longer windows or a smaller overlap"):
        uniform_windows(9, 4, 4)
    with pytest.raises(ShapeError, match="do not cover the 7 frames"):
        joint_predictor(denoise, {"cond": told(7)}, rule, np.arange(4)[None], 7)
    with pytest.raises(ShapeError, match="3 steps need as many offsets"):
        run(jnp.zeros(2, int), solver=SOLVER)
    restless = make_solver("ddim", make_schedule("scaled_linear"), 3, "epsilon", eta=0.5)
    with pytest.raises(ConfigError, match="eta 0"):
        run(jnp.zeros(3, int), solver=restless)
