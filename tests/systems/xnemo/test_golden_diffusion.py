"""X-NeMo's schedule, DDIM steps, blurred start and windows are the original's."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.diffusion.noise import blurred
from portrait_jax.diffusion.schedule import add_noise, make_schedule, timesteps
from portrait_jax.diffusion.solvers import make_solver
from portrait_jax.long_video.tiles import halving, uniform_windows
from tests.golden import channels_last, golden_dir, within
from tests.systems.xnemo.original import SYSTEM, case


@pytest.fixture(scope="module")
def golden():
    return case("ddim")


@pytest.fixture(scope="module")
def schedule(golden):
    options = golden.settings["kwargs"]
    return make_schedule(options["beta_schedule"], beta_start=options["beta_start"], beta_end=options["beta_end"])


def spacing(golden) -> dict:
    return {"spacing": "leading", "offset": golden.settings["kwargs"]["steps_offset"]}


def test_alpha_bar_matches_golden(golden, schedule):
    np.testing.assert_allclose(schedule.alpha_bar, golden.tensors["alphas_cumprod"], rtol=1e-5)
    assert golden.tensors["final_alpha_cumprod"] == 1


def test_timesteps_match_golden(golden, schedule):
    for steps, expected in golden.settings["timesteps"].items():
        np.testing.assert_array_equal(timesteps(schedule, int(steps), **spacing(golden)), expected)


def test_noising_matches_golden(golden, schedule):
    tensors = within(golden.tensors, "add_noise")
    levels = [name for name in tensors if name.startswith("t")]
    assert levels
    for name in levels:
        x, noise = (jnp.asarray(tensors[key]) for key in ("x", "noise"))
        noisy = add_noise(schedule, x, noise, jnp.array([int(name[1:])]))
        np.testing.assert_allclose(noisy, tensors[name], atol=1e-5)


def test_ddim_trajectory_of_the_toy_denoiser_matches_golden(golden, schedule):
    runs = [name.removesuffix("/x0") for name in golden.tensors if name.endswith("/x0")]
    assert runs
    for name in runs:
        solver = make_solver(
            "ddim", schedule, int(name.removeprefix("toy")), "epsilon", previous="stride", **spacing(golden)
        )
        time = jnp.asarray(solver.timesteps)

        def step(x, index, solver=solver, time=time):
            epsilon = 0.5 * jnp.sin(x * (1 + time[index] / 1000)) + 0.1 * x
            return (following := solver.step(x, epsilon, index)), following

        start = solver.init(jnp.asarray(golden.tensors[f"{name}/x0"]))
        _, trajectory = jax.lax.scan(step, start, jnp.arange(solver.steps))
        expected = golden.tensors[f"{name}/trajectory"]
        np.testing.assert_allclose(trajectory, expected, atol=1e-4 * np.abs(expected).max())


def test_blur_of_the_start_matches_golden(golden):
    cases = [name.removesuffix("/in") for name in golden.tensors if name.startswith("blur") and name.endswith("/in")]
    assert cases
    for name in cases:
        out = blurred(jnp.asarray(channels_last(golden.tensors[f"{name}/in"])))
        np.testing.assert_allclose(out, channels_last(golden.tensors[f"{name}/out"]), atol=1e-5)


def test_windows_match_golden():
    context = json.loads((golden_dir(SYSTEM) / "context.json").read_text())
    for given in context["cases"]:
        windows = uniform_windows(
            given["num_frames"], given["context_size"], given["context_overlap"],
            strides=given["context_stride"], step=given["step"], closed=given["closed_loop"],
        )  # fmt: skip
        shift = given["offset"] if given["num_frames"] > given["context_size"] else 0
        np.testing.assert_array_equal((windows + shift) % given["num_frames"], given["windows"])
    assert all(halving(int(step)) == value for step, value in context["ordered_halving"].items())
