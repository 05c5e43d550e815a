"""Where jointly denoised windows lie: side by side, overlapping, or elsewhere at every solver step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np

from portrait_jax.diffusion.solvers import Solver
from portrait_jax.errors import ConfigError
from portrait_jax.long_video.plan import check_windows
from portrait_jax.typing import Float, Int, PyTree

GAUSSIAN_VARIANCE = 0.01
"""Of the weights, in squared window lengths."""


@dataclass(frozen=True, eq=False)
class Tiles:
    """Windows of one length over a video, which may all move from one solver step to the next.

    Attributes:
        frames: frames of the video.
        index: the frames under each window before they move.
        weight: how much the frames of a window count, in order.
        offsets: by how many frames the windows lie further on at each step, around the end of the video; a single 0 if
            they do not move.
        cut: how many frames at either end are made and not shown: what drives the video is held there, and fades.
        batch: windows that the network sees at once; groups are joined, in order, until they have as many.
    """

    frames: int
    index: Int[np.ndarray, "win t"]
    weight: Float[np.ndarray, " t"]
    offsets: Int[np.ndarray, " s"] = field(default_factory=lambda: np.zeros(1, int))
    cut: int = 0
    batch: int = 1

    @property
    def length(self) -> int:
        """Frames of a window."""
        return self.index.shape[1]

    def at(self, step: int) -> Int[np.ndarray, "win t"]:
        """The frames under each window at a solver step.

        Raises:
            ConfigError: for a step that moving windows were not planned for.
        """
        if self.offsets.size == 1:
            step = 0
        elif step >= self.offsets.size:
            raise ConfigError(
                f"windows that move for {self.offsets.size} steps have no place at step {step}; plan more"
            )
        return (self.index + self.offsets[step]) % self.frames

    @cached_property
    def share(self) -> Float[np.ndarray, "win t"]:
        """The weights over their sum at each frame: over all windows, a frame's shares add up to 1.

        All windows move together, so the shares are those of every step.
        """
        weight = np.broadcast_to(self.weight, self.index.shape)
        total = np.bincount(self.index.ravel(), weight.ravel(), self.frames)
        return weight / total[self.index]

    @cached_property
    def group_of(self) -> Int[np.ndarray, " f"]:
        """The group of each frame; groups are numbered by their first frames.

        Windows that share a frame at any step, directly or by way of others, are one group, and so are those of a batch.
        """
        group, newest = np.arange(len(self.index)), np.full(self.frames, -1)
        for offset in np.unique(self.offsets):
            for window, frames in enumerate((self.index + offset) % self.frames):
                for other in {int(group[met]) for met in newest[frames] if met >= 0}:
                    group[group == other] = group[window]
                newest[frames] = window
        names = group[newest].tolist()
        order = {name: number for number, name in enumerate(dict.fromkeys(names))}
        found = np.array([order[name] for name in names])
        return self._filled(np.bincount(found[self.at(0)[:, 0]]))[found]

    def _filled(self, windows: Int[np.ndarray, " groups"]) -> Int[np.ndarray, " groups"]:
        """The new number of each group, of so many windows, where groups are joined until a batch is full."""
        numbers, number, held = [], 0, 0
        for count in windows:
            if held >= self.batch:
                number, held = number + 1, 0
            numbers.append(number)
            held += count
        return np.array(numbers)

    @cached_property
    def groups(self) -> list[Int[np.ndarray, " win"]]:
        """The windows of each group."""
        owner = self.group_of[self.at(0)[:, 0]]
        return [np.flatnonzero(owner == group) for group in range(owner.max() + 1)]

    @property
    def count(self) -> int:
        """The number of groups."""
        return len(self.groups)

    @cached_property
    def batched(self) -> int:
        """Windows in each batch: `batch`, or all of the largest group if these are fewer."""
        return min(self.batch, max(map(len, self.groups)))

    def batches(self, group: int) -> Iterator[Int[np.ndarray, " win"]]:
        """The windows of a group, `batched` at a time; the last one is repeated where they do not come out even."""
        windows = self.groups[group]
        for first in range(0, len(windows), self.batched):
            yield windows[np.minimum(np.arange(first, first + self.batched), len(windows) - 1)]

    def under(self, group: int) -> Int[np.ndarray, " f"]:
        """The frames of a group, ascending."""
        return np.flatnonzero(self.group_of == group)

    def begin(self, group: int) -> int:
        """The first frame of a group; `frames` for one past the end."""
        return int(self.under(group)[0]) if group < self.count else self.frames

    def first_frame(self, group: int) -> int:
        """The frame of what is shown that comes next once the groups before `group` are done."""
        return min(max(self.begin(group) - self.cut, 0), self.frames - 2 * self.cut)

    def shown(self, frames: Int[np.ndarray, " f"]) -> Int[np.ndarray, " f"]:
        """Frames as they are counted in what is shown; those of the ends are its first and its last."""
        return np.clip(frames - self.cut, 0, self.frames - 2 * self.cut - 1)

    def strength(self, frames: Int[np.ndarray, " f"]) -> Float[np.ndarray, " f"]:
        """How much of what drives the video is left in these frames: i / cut before the first one, i = 0 … cut − 1, 1 in all that
        are shown, and 1 − i / cut after the last one."""
        rise, fall = frames / max(self.cut, 1), 1 - (frames - (self.frames - self.cut)) / max(self.cut, 1)
        return np.where(frames < self.cut, rise, np.where(frames < self.frames - self.cut, 1.0, fall)).astype(
            np.float32
        )

    def held(self, group: int) -> Int[np.ndarray, " f"]:
        """Frames that are done before `group` is begun but come after some that are not."""
        done = np.flatnonzero(self.group_of < group)
        return done[done >= self.begin(group)]

    def blank(self, solver: Solver, shape: tuple[int, int, int, int]) -> dict[str, PyTree]:
        """What is handed over before the first step of the first group; `shape` is (b, h, w, c) of one frame's latents.

        Returns:
            `step`: the next of the group; `state`: the solver's, of the group's frames `b f h w c` (here none);
            `held`: latents of the frames `held(group)`, `b f h w c`.
        """
        batch, *space = shape
        nothing = jnp.zeros((batch, 0, *space), jnp.float32)
        return {"step": np.zeros((), int), "state": jax.device_get(solver.init(nothing)), "held": np.asarray(nothing)}


def wrapped_tiles(frames: int, length: int) -> Tiles:
    """Windows side by side; the last one goes on with the first frames. A shorter video is one window.

    Raises:
        ConfigError: unless frames and length are at least 1.
    """
    check_windows(frames, length, 0)
    length = min(length, frames)
    starts = np.arange(0, frames, length)
    return Tiles(frames, (starts[:, None] + np.arange(length)) % frames, np.ones(length))


def gaussian_tiles(frames: int, length: int, overlap: int) -> Tiles:
    """Overlapping windows, the last one moved back to end with the video; predictions weigh more in a window's middle.

    A shorter video is one window.

    Raises:
        ConfigError: unless frames ≥ 1 and 0 ≤ overlap < length.
    """
    check_windows(frames, length, overlap)
    length = min(length, frames)
    count = 1 + -(-(frames - length) // max(length - overlap, 1))
    starts = np.minimum(np.arange(count) * (length - overlap), frames - length)
    middle = (np.arange(length) - (length - 1) / 2) / length
    return Tiles(frames, starts[:, None] + np.arange(length), np.exp(-(middle**2) / (2 * GAUSSIAN_VARIANCE)))


def shifted_tiles(
    frames: int, length: int, overlap: int, offsets: Sequence[int] | Int[np.ndarray, " s"], *, strides: int = 1
) -> Tiles:
    """Overlapping windows of equal weights that run around the end of the video, moved at every step.

    No frame is at a seam in each step. A video of at most `length` frames is one window, which stays where it is.

    Args:
        offsets: by how many frames the windows are moved at each solver step; see `random_offsets`.
        strides: see `uniform_windows`.

    Raises:
        ConfigError: unless frames ≥ 1 and 0 ≤ overlap < length.
    """
    windows = uniform_windows(frames, length, overlap, strides=strides)
    moved = np.zeros(1, int) if len(windows) == 1 else np.asarray(offsets, int)
    return Tiles(frames, windows, np.ones(windows.shape[1]), moved)


def random_offsets(steps: int, length: int, seed: int = 0) -> Int[np.ndarray, " s"]:
    """0 … length − 1 for each step. Where windows lie does not depend on the video's noise, so a plan is always the same."""
    return np.random.default_rng(seed).integers(length, size=steps)


def uniform_windows(
    frames: int, length: int, overlap: int, *, strides: int = 1, step: int = 0, closed: bool = True
) -> Int[np.ndarray, "win t"]:
    """Frame numbers of windows of `length` frames that overlap by `overlap`; of a short video one window of all frames.

    Args:
        strides: how many kinds of windows: of every frame, of every second, of every fourth …; where those reach around the
            whole video, they may have a frame twice.
        step: shifts the windows, by a fraction of the video that `halving` gives.
        closed: the last windows run on into the beginning.

    Raises:
        ConfigError: unless frames ≥ 1 and 0 ≤ overlap < length.
    """
    check_windows(frames, length, overlap)
    if frames <= length:
        return np.arange(frames)[None]
    shift, windows = halving(step), []
    for level in range(min(strides, math.ceil(math.log2(frames / length)) + 1)):
        stride = 1 << level
        begin = round(frames * shift)
        end = frames + begin - (0 if closed else overlap)
        for first in range(int(shift * stride) + begin, end, length * stride - overlap):
            windows.append((first + stride * np.arange(length)) % frames)
    return np.stack(windows)


def halving(step: int) -> float:
    """0, 1/2, 1/4, 3/4, 1/8 …: the bits of `step` mirrored at the point."""
    return sum((((step >> bit) & 1) / 2 ** (bit + 1) for bit in range(step.bit_length())), 0.0)
