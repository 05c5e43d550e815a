"""Diffusion without a network: schedules, prediction types, solvers, guidance and the sampling loop."""

from portrait_jax.diffusion.grid import Grid, karras_grid, schedule_grid
from portrait_jax.diffusion.guidance import Guidance, classifier_free, identity, mimicking, nested, rescaled
from portrait_jax.diffusion.prediction import PredictionType, to_x0_epsilon, training_target
from portrait_jax.diffusion.sampler import Denoise, sample
from portrait_jax.diffusion.schedule import (
    Schedule,
    add_noise,
    make_schedule,
    rescale_zero_terminal_snr,
    signal_noise,
    timesteps,
)
from portrait_jax.diffusion.solvers import Solver, make_solver, solver_on

__all__ = [
    "Denoise", "Grid", "Guidance", "PredictionType", "Schedule", "Solver", "add_noise", "classifier_free", "identity",
    "karras_grid", "make_schedule", "make_solver", "mimicking", "nested", "rescale_zero_terminal_snr", "rescaled", "sample",
    "schedule_grid", "signal_noise", "solver_on", "timesteps", "to_x0_epsilon", "training_target",
]  # fmt: skip
