"""Noise schedules of the discrete-time Gaussian diffusion q(x_t | x0) = N(√ᾱ_t x0, (1 − ᾱ_t) I).

Schedules are float64 NumPy tables, made once on the host; only looked-up numbers enter a jitted program, as float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import jax.numpy as jnp
import numpy as np

from portrait_jax.errors import ConfigError, nearest
from portrait_jax.typing import Array, Float, Int


@dataclass(frozen=True, eq=False)
class Schedule:
    """The signal share of every training timestep.

    Attributes:
        alpha_bar: ᾱ_t in [0, 1), strictly decreasing; index t = 0 is the least noisy timestep.

    Raises:
        ConfigError: if `alpha_bar` is empty, leaves its range or does not decrease.
    """

    alpha_bar: Float[np.ndarray, " t"]

    def __post_init__(self):
        table = self.alpha_bar
        if table.size == 0 or table[0] >= 1 or table[-1] < 0 or np.any(np.diff(table) >= 0):
            raise ConfigError("a noise schedule needs alpha_bar strictly decreasing from below 1 to at least 0")

    @property
    def length(self) -> int:
        """T, the number of training timesteps."""
        return self.alpha_bar.size


def from_betas(betas: Float[np.ndarray, " t"]) -> Schedule:
    """Builds ᾱ_t = Π (1 − β_i) from variances 0 < β < 1 (DDPM, arXiv 2006.11239, eq. 4)."""
    return Schedule(np.cumprod(1.0 - np.asarray(betas, np.float64)))


def linear(length: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Schedule:
    """β rises linearly (DDPM, arXiv 2006.11239, section 4)."""
    return from_betas(np.linspace(beta_start, beta_end, length))


def scaled_linear(length: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> Schedule:
    """√β rises linearly, as in latent diffusion and Stable Diffusion."""
    return from_betas(np.linspace(beta_start**0.5, beta_end**0.5, length) ** 2)


def cosine(length: int = 1000, offset: float = 0.008, beta_max: float = 0.999) -> Schedule:
    """ᾱ follows a squared cosine with β clipped at `beta_max` (arXiv 2102.09672, eq. 17)."""
    phase = (np.arange(length + 1) / length + offset) / (1 + offset) * np.pi / 2
    curve = np.cos(phase) ** 2
    return from_betas(np.minimum(1 - curve[1:] / curve[:-1], beta_max))


SCHEDULES: Mapping[str, Callable[..., Schedule]] = MappingProxyType(
    {"linear": linear, "scaled_linear": scaled_linear, "cosine": cosine}
)


def make_schedule(name: str, *, zero_terminal_snr: bool = False, **options) -> Schedule:
    """Builds a schedule from its name in `SCHEDULES` and that function's options.

    Raises:
        ConfigError: for an unknown name.
    """
    if name not in SCHEDULES:
        raise ConfigError(f"unknown noise schedule '{name}'{nearest(name, list(SCHEDULES))}")
    schedule = SCHEDULES[name](**options)
    return rescale_zero_terminal_snr(schedule) if zero_terminal_snr else schedule


def rescale_zero_terminal_snr(schedule: Schedule) -> Schedule:
    """Shifts √ᾱ so that it ends at exactly 0 and scales it so that its first value stays (arXiv 2305.08891, alg. 1)."""
    root = np.sqrt(schedule.alpha_bar)
    shifted = root - root[-1]
    return Schedule((shifted * (root[0] / shifted[0])) ** 2)


def _trailing(length: int, steps: int) -> np.ndarray:
    return np.round(length - np.arange(steps) * (length / steps)) - 1


def _leading(length: int, steps: int) -> np.ndarray:
    return np.arange(steps)[::-1] * (length // steps)


def _linspace(length: int, steps: int) -> np.ndarray:
    return np.round(np.linspace(length - 1, 0, steps))


def _open(length: int, steps: int) -> np.ndarray:
    return np.floor(np.linspace(length - 1, 0, steps, endpoint=False))


SPACINGS = MappingProxyType({"trailing": _trailing, "leading": _leading, "linspace": _linspace, "open": _open})


def timesteps(schedule: Schedule, steps: int, spacing: str = "trailing", *, offset: int = 0) -> Int[np.ndarray, " s"]:
    """Chooses the timesteps that a solver visits, noisiest first (arXiv 2305.08891, table 2).

    Args:
        steps: 1 … T.
        spacing: "trailing" starts at T − 1 (needed with zero terminal SNR), "leading" ends at 0, "linspace" has both;
            "open" goes from T − 1 towards 0, which it does not reach, cutting off fractions (CogVideoX's original).
        offset: added to every timestep (Stable Diffusion's `steps_offset`; sensible with "leading" only).

    Returns:
        Distinct int32 timesteps in [0, T), strictly decreasing.

    Raises:
        ConfigError: for an unknown spacing or when the request does not fit into [0, T).
    """
    if spacing not in SPACINGS:
        raise ConfigError(f"unknown timestep spacing '{spacing}'{nearest(spacing, list(SPACINGS))}")
    if not 1 <= steps <= schedule.length:
        raise ConfigError(f"the number of solver steps must be 1 to {schedule.length}, not {steps}")
    chosen = SPACINGS[spacing](schedule.length, steps).astype(np.int32) + np.int32(offset)
    if chosen[0] >= schedule.length or chosen[-1] < 0:
        raise ConfigError(
            f"timesteps {chosen[0]} … {chosen[-1]} leave 0 … {schedule.length - 1}: "
            f"change the offset {offset} or the number of steps {steps}"
        )
    return chosen


def timestep_at(schedule: Schedule, log_level: Float[Array, " b"]) -> Float[Array, " b"]:
    """Where, between its timesteps, a schedule's ratio of noise to signal is exp(log_level); beyond both ends, the end.

    How a network of discrete time is told the continuous level of another (EDM, arXiv 2206.00364, appendix C.3.4, backwards).
    """
    table = schedule.alpha_bar[schedule.alpha_bar > 0]
    return jnp.interp(log_level, 0.5 * np.log((1 - table) / table), np.arange(len(table), dtype=np.float32))


def signal_noise(
    schedule: Schedule, timestep: Int[Array, " b"], ndim: int
) -> tuple[Float[Array, "b ..."], Float[Array, "b ..."]]:
    """Looks up (√ᾱ_t, √(1 − ᾱ_t)) per item as float32, shaped `b 1 1 …` to broadcast against `ndim` axes."""
    shape = timestep.shape + (1,) * (ndim - 1)
    alpha = jnp.asarray(np.sqrt(schedule.alpha_bar), jnp.float32)[timestep]
    sigma = jnp.asarray(np.sqrt(1 - schedule.alpha_bar), jnp.float32)[timestep]
    return alpha.reshape(shape), sigma.reshape(shape)


def add_noise(
    schedule: Schedule, x0: Float[Array, " b *shape"], noise: Float[Array, " b *shape"], timestep: Int[Array, " b"]
) -> Float[Array, " b *shape"]:
    """Draws x_t = √ᾱ_t x0 + √(1 − ᾱ_t) noise for unit-variance `noise` and t in [0, T) (arXiv 2006.11239, eq. 4)."""
    alpha, sigma = signal_noise(schedule, timestep, x0.ndim)
    return alpha * x0 + sigma * noise
