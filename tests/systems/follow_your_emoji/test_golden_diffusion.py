"""Follow-Your-Emoji's noise tables, timesteps and DDIM steps are the original's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.diffusion.prediction import training_target
from portrait_jax.diffusion.schedule import add_noise, signal_noise, timesteps
from portrait_jax.diffusion.solvers import make_solver
from tests.systems.follow_your_emoji.original import PREDICTIONS, SOLVER, case, noise_schedule, placement


@pytest.fixture(scope="module")
def golden():
    return case("scheduler")


@pytest.fixture(scope="module")
def schedule(golden):
    return noise_schedule(golden.config)


def counted(golden, kind: str) -> list[tuple[int, np.ndarray]]:
    """(steps, tensor) of all outputs called KIND_STEPS."""
    found = [(int(name.split("_")[1]), x) for name, x in golden.outputs.items() if name.startswith(f"{kind}_")]
    assert found
    return found


def test_alpha_bar_matches_golden(golden, schedule):
    np.testing.assert_allclose(schedule.alpha_bar, golden.outputs["alphas_cumprod"], atol=1e-6)


def test_timesteps_match_golden(golden, schedule):
    places = placement(golden.config)
    for steps, expected in counted(golden, "timesteps"):
        found = timesteps(schedule, steps, places["spacing"], offset=places["offset"])
        np.testing.assert_array_equal(found, expected)


def test_noising_and_velocity_match_golden(golden, schedule):
    x0, noise, t = (jnp.asarray(golden.inputs[name]) for name in ("x0", "noise", "t"))
    np.testing.assert_allclose(add_noise(schedule, x0, noise, t), golden.outputs["add_noise"], atol=1e-5)
    target = training_target("v", x0, noise, *signal_noise(schedule, t, x0.ndim))
    np.testing.assert_allclose(target, golden.outputs["velocity"], atol=1e-5)


def test_ddim_trajectory_matches_golden(golden, schedule):
    prediction = PREDICTIONS[golden.config["prediction_type"]]
    for steps, trajectory in counted(golden, "trajectory"):
        solver = make_solver(SOLVER, schedule, steps, prediction, **placement(golden.config))
        step = jax.jit(solver.step)
        state = solver.init(jnp.asarray(golden.inputs["sample"]))
        for index, (output, expected) in enumerate(zip(golden.inputs["model_output"], trajectory, strict=True)):
            state = step(state, jnp.asarray(output), index)
            np.testing.assert_allclose(solver.result(state), expected, atol=1e-4)
