"""HunyuanPortrait's noise levels, start and solver are the original's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.diffusion.grid import karras_grid
from portrait_jax.diffusion.solvers import solver_on
from tests.golden import assert_close
from tests.systems.hunyuan_portrait.original import case


@pytest.fixture(scope="module")
def golden():
    return case("scheduler")


@pytest.fixture(scope="module")
def solver(golden):
    original = golden.config["scheduler"]
    assert original["prediction_type"] == "v_prediction" and original["use_karras_sigmas"]
    grid = karras_grid(golden.config["steps"], original["sigma_min"], original["sigma_max"])
    return solver_on("euler", grid, "v")


def test_levels_and_timesteps_match_golden(golden, solver):
    sigmas = np.append(solver.grid.sigma / solver.grid.alpha, 0)
    np.testing.assert_allclose(sigmas, golden.outputs["sigmas"], rtol=1e-5)
    np.testing.assert_allclose(solver.timesteps, golden.outputs["timesteps"], atol=1e-5)


def test_start_inputs_estimates_and_trajectory_of_the_toy_denoiser_match_golden(golden, solver):
    """Ours are in coordinates of unit variance: the original's latents times α."""
    toy, grid = golden.config["toy_denoiser"], solver.grid
    start = solver.init(jnp.asarray(golden.inputs["noise"]), jnp.asarray(golden.inputs["reference_latents"]))
    assert_close(start / grid.alpha[0], golden.outputs["init_latents"])
    timesteps = jnp.asarray(solver.timesteps)

    def step(x, index):
        v = jnp.tanh(toy["a"] * x + toy["b"] * timesteps[index]) + toy["c"] * x
        x0, _ = solver._x0_epsilon(x, v, index)
        following = solver.step(x, v, index)
        return following, (x, x0, following)

    _, (inputs, estimates, states) = jax.lax.scan(step, start, jnp.arange(solver.steps))
    assert_close(inputs, golden.outputs["scaled_inputs"])
    assert_close(estimates, golden.outputs["pred_x0"])
    scale = grid.alpha_next.reshape(-1, 1, 1, 1, 1, 1)
    assert_close(states / scale, golden.outputs["trajectory"])
