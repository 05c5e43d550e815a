"""What all strategies for long videos have in common: units of work in order, each of which emits some frames."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from portrait_jax.diffusion.solvers import Solver
from portrait_jax.errors import ConfigError
from portrait_jax.typing import Array, Float, Int, PyTree


def check_windows(frames: int, length: int, overlap: int = 0) -> None:
    """Raises ConfigError unless frames ≥ 1 and 0 ≤ overlap < length."""
    if frames < 1:
        raise ConfigError(f"a video has at least one frame, not {frames}; give a longer driving sequence")
    if not 0 <= overlap < length:
        raise ConfigError(
            f"windows need 0 <= overlap < length, but the overlap is {overlap} and the length {length}; give longer "
            "windows or a smaller overlap"
        )


@dataclass(frozen=True, eq=False)
class Plan(ABC):
    """Units of `length` frames each, sampled one after another; chunks of them are one jitted call.

    Attributes:
        frames: frames of the video.
        length: frames that a unit samples together.
        emitted: how many of its frames each unit emits, from its first on; together all frames of the video, in order.
    """

    frames: int
    length: int
    emitted: Int[np.ndarray, " win"]

    @property
    def count(self) -> int:
        """The number of units."""
        return self.emitted.size

    @property
    @abstractmethod
    def stride(self) -> int:
        """Frames that a unit emits where it is neither the last nor one that emits nothing."""

    @property
    @abstractmethod
    def borders(self) -> Int[np.ndarray, " n"]:
        """Frames that were made by another unit than the frame before."""

    @property
    @abstractmethod
    def blended(self) -> Int[np.ndarray, " n"]:
        """Frames that two units have in common."""

    def first_frame(self, unit: int) -> int:
        """The frame that is emitted next once the units before `unit` are done; `frames` for a unit past the end."""
        return int(self.emitted[:unit].sum())

    def chunks(self, size: int) -> Iterator[int]:
        """First units of consecutive chunks of `size` units; the last chunk may reach past the end."""
        return iter(range(0, self.count, size))

    @abstractmethod
    def source_frames(self, first: int, size: int) -> Int[np.ndarray, " f"]:
        """Video frames that the conditioning of the chunk of `size` units from unit `first` must cover."""

    @abstractmethod
    def arguments(self, first: int, size: int) -> tuple[Any, ...]:
        """What `sampler` is told of such a chunk, besides conditionings, carry and key."""

    @abstractmethod
    def blank(self, solver: Solver, shape: tuple[int, int, int, int]) -> PyTree:
        """The carry that the first unit is handed; `shape` is (b, h, w, c) of one frame's latents."""

    @abstractmethod
    def sampler(self, denoise: Callable[..., Array], size: int, **settings: Any) -> Callable[..., tuple[PyTree, Array]]:
        """A compiled sampler for chunks of `size` units, of any plan of this kind with as large units.

        Args:
            denoise: (params, noisy, timestep, conditioning) → prediction.
            settings: `solver`, `guidance`, `noise_share`, `cache`.

        Returns:
            run(params, conditionings, carry, key, *plan.arguments(first, size)) → (carry, latents of each unit). The
            given carry is donated.
        """

    def emit(self, first: int, latents: Float[Array, "win b f h w c"]) -> Float[Array, "b g h w c"]:
        """Joins what the units of a chunk emit, `g` frames in order; units past the end emit nothing."""
        counts = self.emitted[first : first + latents.shape[0]]
        return jnp.concatenate([unit[:, :count] for unit, count in zip(latents, counts, strict=False)], axis=1)
