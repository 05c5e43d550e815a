"""Follow-Your-Emoji's noise tables, timesteps and DDIM steps are the original's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.diffusion.prediction import training_target
from portrait_jax.diffusion.schedule import add_noise, signal_noise, timesteps
from portrait_jax.diffusion.solvers import make_solver
from tests.golden import assert_close
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
    assert_close(schedule.alpha_bar, golden.outputs["alphas_cumprod"], 1e-6)


def test_timesteps_match_golden(golden, schedule):
    places = placement(golden.config)
    for steps, expected in counted(golden, "timesteps"):
        found = timesteps(schedule, steps, places["spacing"], offset=places["offset"])
        np.testing.assert_array_equal(found, expected)


def test_noising_and_velocity_match_golden(golden, schedule):
    x0, noise, t = (jnp.asarray(golden.inputs[name]) for name in ("x0", "noise", "t"))
    assert_close(add_noise(schedule, x0, noise, t), golden.outputs["add_noise"], 1e-5)
    target = training_target("v", x0, noise, *signal_noise(schedule, t, x0.ndim))
    assert_close(target, golden.outputs["velocity"], 1e-5)


def test_ddim_trajectory_matches_golden(golden, schedule):
    prediction = PREDICTIONS[golden.config["prediction_type"]]
    for steps, trajectory in counted(golden, "trajectory"):
        solver = make_solver(SOLVER, schedule, steps, prediction, **placement(golden.config))
        step = jax.jit(solver.step)
        states = [solver.init(jnp.asarray(golden.inputs["sample"]))]
        for index, output in enumerate(golden.inputs["model_output"][: len(trajectory)]):
            states.append(step(states[-1], jnp.asarray(output), index))
        assert_close(np.stack([solver.result(state) for state in states[1:]]), trajectory)
