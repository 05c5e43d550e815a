"""The noise levels that a solver walks through: made once on the host, looked up inside the jitted loop.

All levels are in variance-preserving coordinates, x = α x0 + σ ε with α² + σ² = 1. A variance-exploding model (EDM,
SVD) fits in: its sample x̂ = x0 + σ̂ ε times α = 1/√(1 + σ̂²) is x, which is also the network input that it prescribes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from portrait_jax.diffusion.schedule import Schedule, rescale_zero_terminal_snr, timesteps
from portrait_jax.errors import ConfigError, nearest
from portrait_jax.typing import Float, Num

PREVIOUS = ("listed", "stride")


@dataclass(frozen=True, eq=False)
class Grid:
    """For each solver step the level it starts from and the level it goes to.

    Attributes:
        timesteps: what the network is told, integer in [0, T) or continuous.
        alpha, sigma: level before the step. alpha may be 0 (zero terminal SNR); sigma is never 0.
        alpha_next, sigma_next: level after the step; the last is usually (1, 0).
        alpha_read: level at which the network's output is read, where that is not the step's; None: it is.
    """

    timesteps: Num[np.ndarray, " s"]
    alpha: Float[np.ndarray, " s"]
    sigma: Float[np.ndarray, " s"]
    alpha_next: Float[np.ndarray, " s"]
    sigma_next: Float[np.ndarray, " s"]
    alpha_read: Float[np.ndarray, " s"] | None = None

    @property
    def read(self) -> tuple[Float[np.ndarray, " s"], Float[np.ndarray, " s"]]:
        """(α, σ) at which outputs are turned into x0 and ε."""
        if self.alpha_read is None:
            return self.alpha, self.sigma
        return self.alpha_read, np.sqrt(1 - self.alpha_read**2)

    @property
    def steps(self) -> int:
        """The number of solver steps."""
        return self.timesteps.size


def schedule_grid(
    schedule: Schedule,
    steps: int,
    spacing: str = "trailing",
    *,
    previous: str = "listed",
    offset: int = 0,
    final_alpha_bar: float = 1.0,
) -> Grid:
    """Places `steps` solver steps on a discrete schedule.

    Args:
        spacing, offset: see `timesteps`.
        previous: where the step from timestep t goes: "listed" to the next timestep of the list; "stride" to
            t − T // steps (as common DDIM implementations do; for some numbers of steps one off the next listed one).
        final_alpha_bar: ᾱ after the last step, or wherever "stride" falls below 0.

    Raises:
        ConfigError: for an unknown rule or a request that does not fit the schedule.
    """
    if previous not in PREVIOUS:
        raise ConfigError(f"unknown rule '{previous}' for the previous timestep{nearest(previous, PREVIOUS)}")
    chosen = timesteps(schedule, steps, spacing, offset=offset)
    following = np.append(chosen[1:], -1) if previous == "listed" else chosen - schedule.length // steps
    alpha_bar = schedule.alpha_bar[chosen]
    alpha_bar_next = np.where(following >= 0, schedule.alpha_bar[np.maximum(following, 0)], final_alpha_bar)
    return Grid(
        timesteps=chosen,
        alpha=np.sqrt(alpha_bar),
        sigma=np.sqrt(1 - alpha_bar),
        alpha_next=np.sqrt(alpha_bar_next),
        sigma_next=np.sqrt(1 - alpha_bar_next),
    )


def rescaled_grid(schedule: Schedule, steps: int, spacing: str = "open") -> Grid:
    """Zero terminal SNR as CogVideoX's original samples with it: the chosen levels alone are rescaled, not the whole table.

    So the levels differ a little from those of training. The network is told the timestep chosen, and its output is read at
    the level nearest to the step's in the table that training used, which may be that of an earlier timestep.

    Args:
        schedule: before the rescaling.
        steps, spacing: see `timesteps`.

    Raises:
        ConfigError: as `timesteps`.
    """
    chosen = timesteps(schedule, steps, spacing)
    root = np.sqrt(schedule.alpha_bar)
    alpha = _to_zero(root[chosen][::-1])[::-1]
    table = np.sqrt(rescale_zero_terminal_snr(schedule).alpha_bar)
    near = np.abs(table[None] - alpha[:, None]).argmin(1)
    following = np.append(alpha[1:], 1.0)
    return Grid(
        timesteps=chosen,
        alpha=alpha,
        sigma=np.sqrt(1 - alpha**2),
        alpha_next=following,
        sigma_next=np.sqrt(1 - following**2),
        alpha_read=table[near],
    )


def _to_zero(root: np.ndarray) -> np.ndarray:
    """Falling values shifted so that the last is 0 and scaled so that the first stays."""
    return (root - root[-1]) * (root[0] / (root[0] - root[-1]))


def karras_grid(steps: int, sigma_min: float = 0.002, sigma_max: float = 700.0, rho: float = 7.0) -> Grid:
    """Noise levels evenly spaced in σ̂^(1/ρ), then 0 (EDM, arXiv 2206.00364, eq. 5); timestep = ln(σ̂) / 4 (its table 1).

    The default range is that of Stable Video Diffusion. Noise enters with unit variance, that is x̂ = √(1 + σ̂²) ε.

    Raises:
        ConfigError: unless steps ≥ 1 and 0 < sigma_min < sigma_max.
    """
    if steps < 1 or not 0 < sigma_min < sigma_max:
        raise ConfigError(
            f"Karras levels need steps >= 1 and 0 < sigma_min < sigma_max, not {steps}, {sigma_min}, {sigma_max}"
        )
    ramp = np.arange(steps) / max(steps - 1, 1)
    level = (sigma_max ** (1 / rho) + ramp * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho
    alpha = 1 / np.sqrt(1 + level**2)
    sigma = level * alpha
    return Grid(
        timesteps=(np.log(level) / 4).astype(np.float32),
        alpha=alpha,
        sigma=sigma,
        alpha_next=np.append(alpha[1:], 1.0),
        sigma_next=np.append(sigma[1:], 0.0),
    )
