"""Protects where solver steps start and end."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portrait_jax.diffusion.grid import karras_grid, schedule_grid
from portrait_jax.diffusion.schedule import make_schedule
from portrait_jax.errors import ConfigError

SCHEDULE = make_schedule("scaled_linear", zero_terminal_snr=True)


@given(steps=st.integers(1, 200), spacing=st.sampled_from(["trailing", "leading", "linspace"]))
def test_listed_steps_chain_and_end_at_clean_data(steps, spacing):
    grid = schedule_grid(SCHEDULE, steps, spacing)
    np.testing.assert_array_equal(grid.alpha_next[:-1], grid.alpha[1:])
    assert (grid.alpha_next[-1], grid.sigma_next[-1]) == (1, 0)
    np.testing.assert_allclose(grid.alpha**2 + grid.sigma**2, 1)
    assert np.all(grid.sigma > 0)


def test_stride_goes_to_the_timestep_one_stride_below():
    grid = schedule_grid(SCHEDULE, 30, previous="stride")
    np.testing.assert_array_equal(grid.alpha_next[:-1] ** 2, SCHEDULE.alpha_bar[grid.timesteps[:-1] - 33])
    assert not np.array_equal(grid.alpha_next[:-1], grid.alpha[1:]), "30 steps do not divide 1000: the rules differ"
    assert grid.alpha_next[-1] == 1


def test_final_level_can_be_other_than_clean():
    grid = schedule_grid(SCHEDULE, 10, "leading", final_alpha_bar=float(SCHEDULE.alpha_bar[0]))
    assert grid.alpha_next[-1] == np.sqrt(SCHEDULE.alpha_bar[0])


@given(steps=st.integers(2, 60))
def test_karras_levels_fall_from_the_largest_to_the_smallest_sigma(steps):
    grid = karras_grid(steps, sigma_min=0.01, sigma_max=80.0)
    level = grid.sigma / grid.alpha
    assert level[0] == pytest.approx(80) and level[-1] == pytest.approx(0.01)
    assert np.all(np.diff(level) < 0)
    np.testing.assert_allclose(np.diff(level ** (1 / 7)), np.diff(level ** (1 / 7))[0], rtol=1e-6)
    np.testing.assert_allclose(grid.timesteps, np.log(level) / 4, rtol=1e-5)
    assert (grid.alpha_next[-1], grid.sigma_next[-1]) == (1, 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: schedule_grid(SCHEDULE, 5, previous="strid"), "did you mean 'stride'"),
        (lambda: karras_grid(0), "steps >= 1"),
        (lambda: karras_grid(5, sigma_min=2.0, sigma_max=1.0), "sigma_min < sigma_max"),
    ],
)
def test_a_wrong_request_says_what_is_wrong(call, message):
    with pytest.raises(ConfigError, match=message):
        call()
