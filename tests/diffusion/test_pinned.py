"""Protects pinned frames: they stay on the noisy path of what is known, with every solver and prediction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.diffusion.pinned import Pinned
from portrait_jax.diffusion.schedule import make_schedule
from portrait_jax.diffusion.solvers import SOLVERS, make_solver

SCHEDULE = make_schedule("scaled_linear", zero_terminal_snr=True)
KNOWN, NOISE, NONSENSE = (jax.random.normal(jax.random.key(i), (1, 3, 2, 2, 1)) for i in range(3))
GIVEN = jnp.array([[1.0, 0.0, 1.0]])


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("prediction", ["v", "x0"])
def test_given_frames_end_at_what_is_known_whatever_the_network_says(name, prediction):
    plain = make_solver(name, SCHEDULE, 5, prediction)
    pinned = Pinned.to(plain, KNOWN, GIVEN)
    state, free = pinned.init(NOISE), plain.init(NOISE)
    for index in range(5):
        alpha, sigma = plain.grid.alpha[index], plain.grid.sigma[index]
        np.testing.assert_allclose(pinned.result(state)[:, 0], (alpha * KNOWN + sigma * NOISE)[:, 0], atol=2e-5)
        state, free = pinned.step(state, NONSENSE, index), plain.step(free, NONSENSE, index)
    np.testing.assert_allclose(pinned.result(state)[:, ::2], KNOWN[:, ::2], atol=2e-5)
    np.testing.assert_allclose(pinned.result(state)[:, 1], plain.result(free)[:, 1], atol=1e-6)


def test_given_frames_start_around_what_is_known_and_others_where_they_are_told():
    plain = make_solver("dpmpp_2m", make_schedule("scaled_linear"), 3)
    around = jnp.full((1, 1, 2, 2, 1), 5.0)
    state = Pinned.to(plain, KNOWN, GIVEN).init(NOISE, around)
    np.testing.assert_array_equal(plain.result(state)[:, ::2], plain.result(plain.init(NOISE, KNOWN))[:, ::2])
    np.testing.assert_array_equal(plain.result(state)[:, 1], plain.result(plain.init(NOISE, around))[:, 1])


def test_a_stochastic_solver_stays_one():
    solver = make_solver("ddim", SCHEDULE, 3, eta=1.0)
    pinned = Pinned.to(solver, KNOWN, GIVEN)
    assert pinned.stochastic and pinned.steps == 3
    state = pinned.init(NOISE)
    for index in range(3):
        state = pinned.step(state, NONSENSE, index, 3 * NONSENSE)
    np.testing.assert_allclose(pinned.result(state)[:, ::2], KNOWN[:, ::2], atol=2e-5)
