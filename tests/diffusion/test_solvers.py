"""Protects the solvers: convergence to an answer known in closed form."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.diffusion.grid import karras_grid, schedule_grid
from portrait_jax.diffusion.prediction import training_target
from portrait_jax.diffusion.schedule import make_schedule
from portrait_jax.diffusion.solvers import SOLVERS, make_solver, solver_on
from portrait_jax.errors import ConfigError

PLAIN = make_schedule("scaled_linear")
ZERO_SNR = make_schedule("scaled_linear", zero_terminal_snr=True)

MEAN, SPREAD = 0.7, 1.1
"""Data are N(MEAN, SPREAD²): the posterior mean of x0 and the solution of the flow are known."""


def best_output(x, alpha, sigma, prediction):
    """What a perfect network says about Gaussian data."""
    x0 = MEAN + alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2) * (x - alpha * MEAN)
    return training_target(prediction, x0, (x - alpha * x0) / sigma, alpha, sigma)


@partial(jax.jit, static_argnums=0)
def solve(solver, noise, key=None):
    """Follows the flow with the perfect network; `key` is for stochastic solvers."""
    alphas, sigmas = jnp.float32(solver.grid.alpha), jnp.float32(solver.grid.sigma)

    def body(state, index):
        output = best_output(solver.result(state), alphas[index], sigmas[index], solver.prediction)
        fresh = None if key is None else jax.random.normal(jax.random.fold_in(key, index), noise.shape)
        return solver.step(state, output, index, fresh), None

    return solver.result(jax.lax.scan(body, solver.init(noise), jnp.arange(solver.steps))[0])


def error(solver):
    noise = jnp.linspace(-2, 2, 9)
    alpha, sigma = solver.grid.alpha[0], solver.grid.sigma[0]
    exact = MEAN + SPREAD * (noise - alpha * MEAN) / np.sqrt(alpha**2 * SPREAD**2 + sigma**2)
    return float(jnp.abs(solve(solver, noise) - exact).max())


@pytest.mark.parametrize("schedule", [PLAIN, ZERO_SNR], ids=["plain", "zero_snr"])
@pytest.mark.parametrize("name", sorted(SOLVERS))
def test_more_steps_come_closer_to_the_exact_flow(name, schedule):
    errors = [error(make_solver(name, schedule, steps, "v")) for steps in (10, 40, 160)]
    assert errors[0] > 2.5 * errors[1] > 2.5 * 2.5 * errors[2]
    assert errors[2] < 0.03


@pytest.mark.parametrize("schedule", [PLAIN, ZERO_SNR], ids=["plain", "zero_snr"])
@pytest.mark.parametrize("steps", [8, 15, 30])
def test_second_order_beats_ddim_at_equal_steps(schedule, steps):
    assert error(make_solver("dpmpp_2m", schedule, steps)) < 0.6 * error(make_solver("ddim", schedule, steps))


@pytest.mark.parametrize("name", sorted(SOLVERS))
def test_prediction_types_lead_to_the_same_sample(name):
    noise = jnp.linspace(-2, 2, 5)
    found = [solve(make_solver(name, PLAIN, 12, prediction), noise) for prediction in ("epsilon", "v", "x0")]
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)
    np.testing.assert_allclose(found[2], found[1], atol=1e-4)


@pytest.mark.parametrize("name", sorted(SOLVERS))
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_zero_terminal_snr_and_few_steps_stay_finite(name, steps):
    noise = jnp.linspace(-2, 2, 5)
    found = solve(make_solver(name, ZERO_SNR, steps), noise)
    assert np.all(np.isfinite(found))
    if steps == 1:
        np.testing.assert_allclose(found, MEAN, atol=1e-6)


def test_euler_equals_ddim_on_the_same_levels():
    noise = jnp.linspace(-2, 2, 5)
    ddim, euler = (solve(make_solver(name, ZERO_SNR, 9), noise) for name in ("ddim", "euler"))
    np.testing.assert_allclose(euler, ddim, atol=1e-5)


def test_euler_on_karras_levels_equals_the_textbook_rule_in_sigma_space():
    grid = karras_grid(8, sigma_min=0.02, sigma_max=50.0)
    noise = jnp.linspace(-2, 2, 5)
    sigmas = np.append(grid.sigma / grid.alpha, 0.0)
    x = np.asarray(noise) / grid.alpha[0]
    for now, after in itertools.pairwise(sigmas):
        x0 = MEAN + SPREAD**2 / (SPREAD**2 + now**2) * (x - MEAN)
        x = x + (after - now) * (x - x0) / now
    np.testing.assert_allclose(solve(solver_on("euler", grid), noise), x, atol=1e-4)


def test_four_times_the_steps_divide_the_error_by_four_at_first_and_by_far_more_at_second_order():
    """Karras levels, whose last step to σ = 0 is too short to hide the order."""

    def gain(name):
        few, many = (error(solver_on(name, karras_grid(steps, sigma_min=0.02, sigma_max=50.0))) for steps in (15, 60))
        return few / many

    assert 3 < gain("euler") < 5
    assert gain("dpmpp_2m") > 12


def test_stochastic_ddim_keeps_the_distribution_of_the_data():
    solver = make_solver("ddim", ZERO_SNR, 100, eta=1.0)
    found = solve(solver, jax.random.normal(jax.random.key(0), (20_000,)), jax.random.key(1))
    assert float(found.mean()) == pytest.approx(MEAN, abs=0.03)
    assert float(found.std()) == pytest.approx(SPREAD, abs=0.04)
    assert not np.allclose(found, solve(solver, jax.random.normal(jax.random.key(0), (20_000,)), jax.random.key(2)))


def test_the_sde_solver_keeps_the_distribution_of_the_data():
    solver = make_solver("sde_dpmpp_2m", ZERO_SNR, 20)
    noise = jax.random.normal(jax.random.key(0), (20_000,))
    found = solve(solver, noise, jax.random.key(1))
    assert float(found.mean()) == pytest.approx(MEAN, abs=0.03)
    assert float(found.std()) == pytest.approx(SPREAD, abs=0.04)
    # Started from one point: what remains of it is chance.
    assert np.corrcoef(found, noise)[0, 1] < 0.2


@pytest.mark.parametrize("solver", [make_solver("ddim", PLAIN, 4, eta=0.5), make_solver("sde_dpmpp_2m", PLAIN, 4)])
def test_a_stochastic_solver_without_noise_says_so(solver):
    with pytest.raises(ConfigError, match="needs fresh noise"):
        solver.step(solver.init(jnp.ones(2)), jnp.ones(2), 0)


@pytest.mark.parametrize("name", sorted(SOLVERS))
def test_states_stay_float32_under_low_precision_outputs(name):
    solver = make_solver(name, ZERO_SNR, 4)
    state = solver.step(solver.init(jnp.ones(3, jnp.bfloat16)), jnp.ones(3, jnp.bfloat16), 0)
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_solver("dmpp_2m", PLAIN, 4), "did you mean 'dpmpp_2m'"),
        (lambda: make_solver("euler", PLAIN, 4, eta=0.5), "no option eta"),
        (lambda: make_solver("ddim", PLAIN, 4, "velocity"), "unknown prediction type 'velocity'"),
        (lambda: make_solver("ddim", ZERO_SNR, 4, "epsilon"), "zero terminal SNR"),
    ],
)
def test_a_wrong_request_says_what_is_wrong(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


def test_epsilon_prediction_is_allowed_where_the_chosen_steps_avoid_pure_noise():
    assert schedule_grid(ZERO_SNR, 10, "leading").alpha[0] > 0
    assert np.all(np.isfinite(solve(make_solver("ddim", ZERO_SNR, 10, "epsilon", "leading"), jnp.linspace(-2, 2, 5))))
