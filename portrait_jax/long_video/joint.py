"""Windows that are denoised jointly: before each solver step their predictions for a frame are averaged into one.

This is MultiDiffusion (arXiv 2302.08113) along time. Two arrangements are in published use: windows side by side whose last
one wraps round to the first frames, and overlapping windows whose frames weigh by a Gaussian about the window's middle. Where
the latter averages what a solver step makes of each window (and not the predictions), the result is the same for a solver
whose step is affine in (latents, prediction), as DDIM's is.

All windows of a group act on each other, so no frame of it is done before its last step. Windows that share no frame form
groups of their own, and groups are sampled one after another: wrapped windows take the memory of two windows, overlapping
ones that of all the video's latents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np

from portrait_jax.diffusion.solvers import Index, Solver
from portrait_jax.errors import ConfigError
from portrait_jax.typing import Array, Float, Int, PyTree

Predict = Callable[[Int[np.ndarray, " t"], Array, Index], Array]
"""(frame numbers, their noisy latents `b t h w c`, solver step) → guided prediction `b t h w c`."""

GAUSSIAN_VARIANCE = 0.01
"""Of the weights, in squared window lengths."""


@dataclass(frozen=True, eq=False)
class Tiles:
    """Where jointly denoised windows lie.

    Attributes:
        frames: frames of the video.
        index: the frames under each window; no window has a frame twice.
        weight: how much the frames of a window count, in order.
    """

    frames: int
    index: Int[np.ndarray, "win t"]
    weight: Float[np.ndarray, " t"]

    @property
    def length(self) -> int:
        """Frames of a window."""
        return self.index.shape[1]

    def share(self) -> Float[np.ndarray, "win t"]:
        """The weights over their sum at each frame: over all windows, a frame's shares add up to 1."""
        weight = np.broadcast_to(self.weight, self.index.shape)
        total = np.bincount(self.index.ravel(), weight.ravel(), self.frames)
        return weight / total[self.index]

    @cached_property
    def groups(self) -> list[Int[np.ndarray, " win"]]:
        """Windows that share frames, directly or by way of others: numbers of windows, by the groups' first frames."""
        group = np.arange(len(self.index))
        owner = np.full(self.frames, -1)
        for window, frames in enumerate(self.index):
            met = {int(group[other]) for other in owner[frames] if other >= 0}
            for other in met:
                group[group == other] = group[window]
            owner[frames] = window
        return [np.flatnonzero(group == name) for name in dict.fromkeys(group.tolist())]

    @property
    def count(self) -> int:
        """The number of groups."""
        return len(self.groups)

    def under(self, group: int) -> Int[np.ndarray, " f"]:
        """The frames of a group, ascending."""
        return np.unique(self.index[self.groups[group]])

    def first_frame(self, group: int) -> int:
        """The first frame of a group; `frames` for one past the end."""
        return int(self.index[self.groups[group]].min()) if group < self.count else self.frames

    def held(self, group: int) -> Int[np.ndarray, " f"]:
        """Frames that are done before `group` is begun but come after some that are not."""
        done = np.concatenate([np.zeros(0, int), *(self.under(earlier) for earlier in range(group))])
        return np.sort(done[done >= self.first_frame(group)])


def wrapped_tiles(frames: int, length: int) -> Tiles:
    """Windows side by side; the last one goes on with the first frames. A shorter video is one window.

    Raises:
        ConfigError: unless frames and length are at least 1.
    """
    _check(frames, length, 0)
    length = min(length, frames)
    starts = np.arange(0, frames, length)
    return Tiles(frames, (starts[:, None] + np.arange(length)) % frames, np.ones(length))


def gaussian_tiles(frames: int, length: int, overlap: int) -> Tiles:
    """Overlapping windows, the last one moved back to end with the video; predictions weigh more in a window's middle.

    A shorter video is one window.

    Raises:
        ConfigError: unless frames ≥ 1 and 0 ≤ overlap < length.
    """
    _check(frames, length, overlap)
    length = min(length, frames)
    count = 1 + -(-(frames - length) // max(length - overlap, 1))
    starts = np.minimum(np.arange(count) * (length - overlap), frames - length)
    middle = (np.arange(length) - (length - 1) / 2) / length
    return Tiles(frames, starts[:, None] + np.arange(length), np.exp(-(middle**2) / (2 * GAUSSIAN_VARIANCE)))


def _check(frames: int, length: int, overlap: int) -> None:
    if frames < 1:
        raise ConfigError(f"a video has at least one frame, not {frames}; give a longer driving sequence")
    if not 0 <= overlap < length:
        raise ConfigError(
            f"windows need 0 <= overlap < length, but the overlap is {overlap} and the length {length}; give longer "
            "windows or a smaller overlap"
        )


def joint_steps(
    predict: Predict,
    state: PyTree,
    tiles: Tiles,
    group: int,
    solver: Solver,
    first: int = 0,
) -> Iterator[PyTree]:
    """Takes the solver's steps for one group of windows; yields the state after each.

    Args:
        predict: the network; called window by window, so that one window's conditioning is in memory at a time.
        state: the solver's state of the frames `tiles.under(group)`.
        first: the step to begin with.

    Raises:
        ConfigError: for a stochastic solver, whose fresh noise no published arrangement defines.
    """
    if solver.stochastic:
        raise ConfigError("jointly denoised windows need a solver without fresh noise; set eta to 0")
    frames, windows, share = tiles.under(group), tiles.groups[group], tiles.share().astype(np.float32)
    places = [np.searchsorted(frames, tiles.index[window]) for window in windows]
    advance, state = jax.jit(solver.step), jax.tree.map(jnp.asarray, state)
    for step in range(first, solver.steps):
        x = solver.result(state)
        output = jnp.zeros_like(x)
        for window, place in zip(windows, places, strict=True):
            seen = predict(tiles.index[window], x[:, place], step)
            output = _add(output, seen, share[window], place)
        state = advance(state, output, step)
        yield state


@partial(jax.jit, donate_argnames="total")
def _add(total: Array, part: Array, share: Array, place: Array) -> Array:
    return total.at[:, place].add(share[:, None, None, None] * part.astype(total.dtype))
