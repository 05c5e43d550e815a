"""Solvers of the probability-flow ODE and of the reverse SDE: each turns (state, network output, step index) into the next state.

A state is a pytree of float32 arrays that all have the latents' shape, so that a scan can carry it and a long-video
strategy can slice and blend it frame by frame. No solver divides by α: a start at zero SNR (α = 0) is fine with each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import jax.numpy as jnp
import numpy as np

from portrait_jax.diffusion.grid import Grid, schedule_grid
from portrait_jax.diffusion.prediction import check_prediction, to_x0_epsilon
from portrait_jax.diffusion.schedule import Schedule
from portrait_jax.errors import ConfigError, nearest
from portrait_jax.typing import Array, Float, Int, Num, PyTree

Index = int | Int[Array, ""]
"""A solver step, 0 … steps − 1; may be traced."""


def _at(table: np.ndarray, index: Index) -> Array:
    return jnp.asarray(table, jnp.float32)[index]


@dataclass(frozen=True, eq=False)
class Solver:
    """Common part of all solvers: the noise levels, the prediction type and the state of memoryless solvers.

    Raises:
        ConfigError: for an unknown prediction type, and for "epsilon" from pure noise (α = 0), where it says nothing.
    """

    grid: Grid
    prediction: str = "v"

    def __post_init__(self):
        check_prediction(self.prediction)
        if self.prediction == "epsilon" and self.grid.alpha[0] == 0:
            raise ConfigError(
                "epsilon-prediction cannot start from a schedule with zero terminal SNR; use prediction 'v' or 'x0', "
                "or leave the schedule unscaled"
            )

    @property
    def timesteps(self) -> Num[np.ndarray, " s"]:
        """What the network is told at each step, noisiest first."""
        return self.grid.timesteps

    @property
    def steps(self) -> int:
        """The number of steps, which is the number of network evaluations."""
        return self.grid.steps

    @property
    def stochastic(self) -> bool:
        """Whether `step` needs fresh unit-variance noise."""
        return False

    def init(self, noise: Float[Array, "*shape"], around: Float[Array, "*#shape"] | None = None) -> PyTree:
        """The state before step 0: unit-variance noise, or clean latents `around` with noise of the first level added."""
        noise = jnp.asarray(noise, jnp.float32)
        if around is None:
            return noise
        return _at(self.grid.alpha, 0) * around.astype(jnp.float32) + _at(self.grid.sigma, 0) * noise

    def result(self, state: PyTree) -> Float[Array, "*shape"]:
        """The latents in a state: the network's next input, and after the last step the sample."""
        return state

    def put(self, state: PyTree, x: Float[Array, "*shape"]) -> PyTree:
        """The state with other latents: `result(put(state, x))` is `x`."""
        return x

    def step(
        self, state: PyTree, output: Float[Array, "*shape"], index: Index, noise: Float[Array, "*shape"] | None = None
    ) -> PyTree:
        """The state after step `index`.

        Args:
            output: the network's prediction for `result(state)` at `timesteps[index]`, any float type.
            noise: fresh unit-variance noise; read by stochastic solvers only.
        """
        raise TypeError(f"{type(self).__name__} has no step rule")

    def _x0_epsilon(self, x: Array, output: Array, index: Index) -> tuple[Array, Array]:
        alpha, sigma = (_at(table, index) for table in self.grid.read)
        return to_x0_epsilon(self.prediction, x, output.astype(jnp.float32), alpha, sigma)


@dataclass(frozen=True, eq=False)
class DDIM(Solver):
    """x ← α' x0 + √(σ'² − s²) ε + s z with s = η (σ'/σ) √(1 − α²/α'²) (DDIM, arXiv 2010.02502, eqs. 12 and 16)."""

    eta: float = 0.0

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    @cached_property
    def _spread(self) -> np.ndarray:
        grid = self.grid
        return self.eta * grid.sigma_next / grid.sigma * np.sqrt(np.maximum(1 - (grid.alpha / grid.alpha_next) ** 2, 0))

    def step(self, state, output, index, noise=None):
        x0, epsilon = self._x0_epsilon(state, output, index)
        remaining = np.sqrt(np.maximum(self.grid.sigma_next**2 - self._spread**2, 0))
        mean = _at(self.grid.alpha_next, index) * x0 + _at(remaining, index) * epsilon
        if not self.stochastic:
            return mean
        if noise is None:
            raise ConfigError(
                f"DDIM with eta {self.eta} needs fresh noise at every step; give step noise, or set eta to 0"
            )
        return mean + _at(self._spread, index) * noise


@dataclass(frozen=True, eq=False)
class Euler(Solver):
    """Euler's rule for dx̂/dσ̂ = (x̂ − x0)/σ̂ in x̂ = x/α, σ̂ = σ/α (EDM, arXiv 2206.00364, algorithm 1, lines 3 to 5).

    Multiplied out by α', it reads x ← (σ'/σ) x + (α' − α σ'/σ) x0, which needs no division by α. On the same levels it
    equals DDIM with η = 0; its use is with levels chosen in σ̂ (`karras_grid`).
    """

    @cached_property
    def _keep(self) -> np.ndarray:
        return self.grid.sigma_next / self.grid.sigma

    @cached_property
    def _gain(self) -> np.ndarray:
        return self.grid.alpha_next - self.grid.alpha * self._keep

    def _advance(self, x: Array, x0: Array, index: Index) -> Array:
        return _at(self._keep, index) * x + _at(self._gain, index) * x0

    def step(self, state, output, index, noise=None):
        x0, _ = self._x0_epsilon(state, output, index)
        return self._advance(state, x0, index)


@dataclass(frozen=True, eq=False)
class DPMSolverPP2M(Euler):
    """The second-order multistep solver in data prediction (DPM-Solver++, arXiv 2211.01095, algorithm 2).

    Euler's rule with x0 extrapolated along λ = ln(α/σ): D = x0 + (h / 2h₋) (x0 − x0₋), where h = λ' − λ and ₋ marks the
    step before. The extrapolation is 0, that is first order, where a λ is infinite: in the first step, in the one after
    a start from pure noise, and in the step to σ' = 0. The state is (latents, x0 of the step before).
    """

    @cached_property
    def _extrapolation(self) -> np.ndarray:
        grid = self.grid
        with np.errstate(divide="ignore", invalid="ignore"):
            level = np.log(grid.alpha / grid.sigma)
            ahead = np.log(grid.alpha_next / grid.sigma_next) - level
            weight = ahead[1:] / (2 * np.diff(level))
        return np.append(0.0, np.where(np.isfinite(weight), weight, 0.0))

    def init(self, noise, around=None):
        x = super().init(noise, around)
        return x, jnp.zeros_like(x)

    def result(self, state):
        return state[0]

    def put(self, state, x):
        return x, state[1]

    def step(self, state, output, index, noise=None):
        x, x0_before = state
        x0, _ = self._x0_epsilon(x, output, index)
        extrapolated = x0 + _at(self._extrapolation, index) * (x0 - x0_before)
        return self._advance(x, extrapolated, index), x0


@dataclass(frozen=True, eq=False)
class SDEDPMSolverPP2M(DPMSolverPP2M):
    """The same extrapolation on the SDE, with fresh noise at every step (SDE-DPM-Solver++(2M), arXiv 2211.01095).

    x ← (σ'/σ) e^(−h) x + α' (1 − e^(−2h)) D + σ' √(1 − e^(−2h)) z, where h = λ' − λ. The step to σ' = 0 is x ← D.
    """

    @property
    def stochastic(self) -> bool:
        return True

    @cached_property
    def _decay(self) -> np.ndarray:
        """e^(−h), 0 where a λ is infinite."""
        grid = self.grid
        return grid.alpha * grid.sigma_next / (grid.alpha_next * grid.sigma)

    def step(self, state, output, index, noise=None):
        if noise is None:
            raise ConfigError("this solver needs fresh noise at every step; give step noise, or take 'dpmpp_2m'")
        x, x0_before = state
        x0, _ = self._x0_epsilon(x, output, index)
        extrapolated = x0 + _at(self._extrapolation, index) * (x0 - x0_before)
        grid, fresh = self.grid, 1 - self._decay**2
        x = _at(grid.sigma_next / grid.sigma * self._decay, index) * x
        x = x + _at(grid.alpha_next * fresh, index) * extrapolated
        return x + _at(grid.sigma_next * np.sqrt(fresh), index) * noise, x0


SOLVERS: Mapping[str, type[Solver]] = MappingProxyType({"ddim": DDIM, "euler": Euler, "dpmpp_2m": DPMSolverPP2M})
"""Of the ODE, at their defaults."""
STOCHASTIC: Mapping[str, type[Solver]] = MappingProxyType({"sde_dpmpp_2m": SDEDPMSolverPP2M})
"""Of the SDE: they need fresh noise at every step."""


def solver_on(name: str, grid: Grid, prediction: str = "v", **options) -> Solver:
    """Builds the solver `name` of `SOLVERS` or `STOCHASTIC` on given noise levels; options: `eta` of "ddim".

    Raises:
        ConfigError: for an unknown name or an option that the solver does not have.
    """
    known = {**SOLVERS, **STOCHASTIC}
    if name not in known:
        raise ConfigError(f"unknown solver '{name}'{nearest(name, list(known))}")
    unknown = sorted(set(options) - set(known[name].__dataclass_fields__))
    if unknown:
        raise ConfigError(f"solver '{name}' has no option {', '.join(unknown)}")
    return known[name](grid, prediction, **options)


def make_solver(
    name: str,
    schedule: Schedule,
    steps: int,
    prediction: str = "v",
    spacing: str = "trailing",
    *,
    previous: str = "listed",
    offset: int = 0,
    final_alpha_bar: float = 1.0,
    **options,
) -> Solver:
    """Builds a solver on a discrete schedule; see `solver_on`, `schedule_grid` and `PredictionType` for the arguments.

    Raises:
        ConfigError: for unknown names and for steps that do not fit the schedule.
    """
    grid = schedule_grid(schedule, steps, spacing, previous=previous, offset=offset, final_alpha_bar=final_alpha_bar)
    return solver_on(name, grid, prediction, **options)
