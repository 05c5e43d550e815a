"""Protects the noise tables and the timesteps that every solver and loss stands on."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portrait_jax.diffusion import schedule as module
from portrait_jax.diffusion.schedule import (
    SCHEDULES,
    SPACINGS,
    Schedule,
    make_schedule,
    rescale_zero_terminal_snr,
    signal_noise,
    timestep_at,
    timesteps,
)
from portrait_jax.errors import ConfigError


@given(name=st.sampled_from(sorted(SCHEDULES)), length=st.integers(20, 1000), zero=st.booleans())
def test_alpha_bar_decreases_strictly_within_its_range(name, length, zero):
    table = make_schedule(name, length=length, zero_terminal_snr=zero).alpha_bar
    assert table.shape == (length,)
    assert 0 < table[0] < 1 and table[-1] >= 0
    assert np.all(np.diff(table) < 0)


@given(
    steps=st.integers(1, 1000), extra=st.integers(0, 500), spacing=st.sampled_from(sorted(SPACINGS)), zero=st.booleans()
)
def test_timesteps_are_distinct_descending_and_in_range(steps, extra, spacing, zero):
    schedule = make_schedule("scaled_linear", length=max(steps + extra, 2), zero_terminal_snr=zero)
    chosen = timesteps(schedule, steps, spacing)
    assert chosen.shape == (steps,) and chosen.dtype == np.int32
    assert np.all(np.diff(chosen) < 0)
    assert chosen[0] < schedule.length and chosen[-1] >= 0


@given(steps=st.integers(1, 1000))
def test_trailing_starts_at_the_noisiest_timestep_and_leading_ends_at_the_cleanest(steps):
    schedule = make_schedule("linear")
    assert timesteps(schedule, steps, "trailing")[0] == 999
    assert timesteps(schedule, steps, "leading")[-1] == 0
    assert timesteps(schedule, steps, "linspace")[0] == 999


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_rescaling_makes_the_last_step_pure_noise_and_keeps_the_first(name):
    plain = make_schedule(name)
    rescaled = rescale_zero_terminal_snr(plain)
    assert plain.alpha_bar[-1] > 0
    assert rescaled.alpha_bar[-1] == 0
    assert rescaled.alpha_bar[0] == pytest.approx(plain.alpha_bar[0], abs=1e-12)


def test_noised_unit_variance_data_keeps_unit_variance():
    schedule = make_schedule("scaled_linear", zero_terminal_snr=True)
    alpha, sigma = signal_noise(schedule, jnp.array([0, 400, 999]), 3)
    assert alpha.shape == (3, 1, 1)
    np.testing.assert_allclose(alpha**2 + sigma**2, 1, atol=1e-6)


@pytest.mark.parametrize("table", [[], [0.5, 0.5], [0.2, 0.9], [1.0, 0.5], [0.5, -0.1]])
def test_a_table_that_is_no_schedule_is_refused(table):
    with pytest.raises(ConfigError, match="strictly decreasing"):
        Schedule(np.array(table, np.float64))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: make_schedule("scaled_liner"), "did you mean 'scaled_linear'"),
        (lambda s: timesteps(s, 10, "trailling"), "did you mean 'trailing'"),
        (lambda s: timesteps(s, 0), "must be 1 to 1000, not 0"),
        (lambda s: timesteps(s, 1001), "not 1001"),
        (lambda s: timesteps(s, 10, "trailing", offset=1), "change the offset 1"),
    ],
)
def test_a_wrong_request_says_what_is_wrong(call, message):
    with pytest.raises(ConfigError, match=message):
        call(module.linear())


def test_a_level_of_noise_has_its_place_between_timesteps():
    schedule = make_schedule("scaled_linear", zero_terminal_snr=True)
    steps = np.array([0, 7, 500, 998])
    signal, noise = signal_noise(schedule, jnp.asarray(steps), 1)
    level = jnp.log(noise / signal)
    np.testing.assert_allclose(timestep_at(schedule, level), steps, atol=0.05)
    between = timestep_at(schedule, (level[1:2] + level[2:3]) / 2)
    assert 7 < float(between[0]) < 500
    np.testing.assert_array_equal(timestep_at(schedule, jnp.array([-99.0, 99.0])), [0, 998])
