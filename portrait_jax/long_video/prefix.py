"""Videos of any length from windows that begin with finished frames: progressive prefix conditioning.

Window 0 is sampled freely. Every later window begins with the last `overlap` latents of the window before, clean at every
solver step, and the network goes on from them. What drifts over many windows are colours and contrast, so window 0 is the
anchor: after each of its steps the mean and the deviation of its latents are kept, and after the same step of every later
window the free frames are brought to them. One `lax.scan` over windows around one over steps; the carry is a few frames and
two numbers per step and channel. The same may be done inside the network, after each of its layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from portrait_jax.conditioning import Anchor, Conditioning
from portrait_jax.diffusion.caching import UNCACHED, CacheSchedule, Kept
from portrait_jax.diffusion.guidance import Guidance
from portrait_jax.diffusion.sampler import Denoise, cached_steps, first_state, guided_step
from portrait_jax.diffusion.solvers import Solver
from portrait_jax.errors import ConfigError, ShapeError, nearest
from portrait_jax.long_video.overlap import (
    Carry,
    Windows,
    check_span,
    chunk_sampler,
    frame_noise,
    plan_windows,
    scan_windows,
    step_noise,
)
from portrait_jax.nn.moments import align, moments
from portrait_jax.typing import Array, Float, Int, PRNGKeyArray, PyTree

STATISTICS = ("mean", "deviation", "blocks")
"""What of window 0 is kept of each step: of its latents, and of the network's features."""
ANCHORS = ("none", "latent", "blocks")
"""What of window 0 later windows are brought to: nothing, the statistics of its latents, or those of the network's features."""


@dataclass(frozen=True, eq=False)
class Prefixed(Windows):
    """Windows whose first `overlap` frames are the last ones of the window before, unchanged.

    Attributes:
        anchor: a name of `ANCHORS`.
        strength: 0 … 1, how far latents or features are brought to the anchor's statistics.
        sites: guidance branch → name of each place in the network that is measured → channels there; of anchor "blocks".
    """

    anchor: str = "latent"
    strength: float = 1.0
    sites: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.anchor not in ANCHORS:
            raise ConfigError(f"sampling.anchor '{self.anchor}' does not exist{nearest(self.anchor, ANCHORS)}")
        if not 0 <= self.strength <= 1:
            raise ConfigError(f"sampling.anchor_strength {self.strength} is a share; give 0 to 1")

    @property
    def borders(self) -> Int[np.ndarray, " n"]:
        first = self.starts[1:] + self.overlap
        return first[first < self.frames]

    @property
    def blended(self) -> Int[np.ndarray, " n"]:
        """None: what two windows share they share bit for bit."""
        return np.zeros(0, int)

    def blank(self, solver: Solver, shape: tuple[int, int, int, int]) -> Carry:
        """See `init_carry`."""
        return init_carry(solver, self.overlap, shape, self.sites)

    def sampler(self, denoise: Callable[..., Array], size: int, **settings: Any) -> Callable[..., tuple[Carry, Array]]:
        """See `overlap.chunk_sampler`."""
        own = {"length": self.length, "overlap": self.overlap, "anchor": self.anchor, "strength": self.strength}
        return chunk_sampler(sample_prefixed, denoise, size=size, **own, **settings)


def plan_prefixed(frames: int, length: int, overlap: int, *, anchor: str = "latent", strength: float = 1.0) -> Prefixed:
    """Covers `frames` frames by windows of `length`, each of which begins with the last `overlap` of the one before.

    Raises:
        ConfigError: see `plan_windows`; or for an unknown anchor.
    """
    windows = plan_windows(frames, length, overlap)
    return Prefixed(windows.frames, windows.length, windows.emitted, windows.overlap, windows.starts, anchor, strength)


def init_carry(
    solver: Solver,
    overlap: int,
    shape: tuple[int, int, int, int],
    sites: Mapping[str, Mapping[str, int]] | None = None,
) -> Carry:
    """The carry before window 0: zeros, which it does not read. `shape` is (b, h, w, c) of one frame's latents."""
    batch, *space = shape

    def zeros(*axes: int) -> Array:
        return jnp.zeros((solver.steps, batch, *axes), jnp.float32)

    return {
        "prefix": jnp.zeros((batch, overlap, *space), jnp.float32),
        "mean": zeros(space[-1]),
        "deviation": zeros(space[-1]),
        "blocks": {branch: {name: zeros(2, n) for name, n in of.items()} for branch, of in (sites or {}).items()},
    }


def sample_prefixed(
    denoise: Denoise,
    conditionings: Mapping[str, Conditioning],
    carry: Carry,
    key: PRNGKeyArray,
    first: int | Int[Array, ""],
    total: int | Int[Array, ""],
    *,
    solver: Solver,
    guidance: Guidance,
    length: int,
    overlap: int,
    size: int,
    anchor: str = "latent",
    strength: float = 1.0,
    noise_share: float = 0.0,
    cache: CacheSchedule = UNCACHED,
    batched: bool = True,
) -> tuple[Carry, Float[Array, "win b f h w c"]]:
    """Samples a chunk of windows. Chunk after chunk equals one large chunk bit for bit.

    In every branch `Conditioning.given` tells the network which frames are clean. With anchor "blocks" `Conditioning.anchor`
    tells it the statistics of its features in window 0, and it measures them: it returns (prediction, {site: "b 2 c"}).

    Args:
        denoise: the network, see `Denoise`.
        conditionings: per branch; per-frame fields cover the frames `Windows.source_frames(first, size)`.
        carry: what the chunk before returned, or `init_carry`.
        key: the same for all chunks of a video. A frame's first noise is a function of it and the frame's number.
        first: index of the chunk's first window; may be traced.
        total: number of windows of the video; windows from there on are skipped and come back as zeros.
        length, overlap: frames per window, and how many of them are the prefix.
        size: windows in this chunk.
        anchor, strength: see `Prefixed`.
        noise_share: correlation of the first noise between frames, see `mixed_noise`.
        cache: the schedule of feature caching; what is kept is a window's own and ends with it.

    Returns:
        The new carry, and the latents of all windows, whole; `Windows.emit` picks the frames to keep.

    Raises:
        ShapeError: if the carry has been made for another solver or overlap, or the conditioning covers other frames.
        ConfigError: see `guided_step`; for anchor "blocks" with feature caching.
    """
    if anchor == "blocks":
        cache.refuse("sampling.anchor 'blocks', which measures all features at every step")
    stride, shape = length - overlap, _frame_shape(carry, solver, overlap)
    check_span(conditionings, (size - 1) * stride + length)
    inside = (jnp.arange(length) < overlap).astype(jnp.float32)

    def run(carry: Carry, position: Array) -> tuple[Carry, Array]:
        window = first + position
        later, prefix = window > 0, carry["prefix"]
        given = inside * later
        told = jnp.broadcast_to(given, (shape[0], length))
        local = {
            name: value.window(position * stride, length).replace(given=told) for name, value in conditionings.items()
        }
        free = 1 - given

        steps = cached_steps(denoise, local, solver, guidance, cache, batched=batched)

        def step(state: PyTree, kept: Kept, index: Array, blocks: PyTree) -> tuple[PyTree, Kept, PyTree]:
            noise = fresh(index)
            if anchor != "blocks":
                return *steps.step(state, index, noise, kept), blocks
            told = {name: anchored(local[name], of, free, strength * later) for name, of in blocks.items()}
            run = guided_step(denoise, told, solver, guidance, batched=batched, measures=True)
            state, own = run(state, index, noise)
            return state, kept, jax.tree.map(lambda past, new: jnp.where(later, past, new), blocks, own)

        fresh = step_noise(solver, key, window * stride + jnp.arange(length), shape)

        def begin(leaf: Array) -> Array:
            """The leaf with the clean prefix, except in window 0."""
            return leaf.at[:, :overlap].set(jnp.where(later, prefix, leaf[:, :overlap]))

        def body(carried: tuple[PyTree, Kept], scanned: PyTree) -> tuple[tuple[PyTree, Kept], PyTree]:
            (state, kept), (index, mean, deviation, blocks) = carried, scanned
            state, kept, blocks = step(jax.tree.map(begin, state), kept, index, blocks)
            x = solver.result(state)
            own_mean, own_deviation = moments(x, free)
            statistics = jnp.where(later, mean, own_mean), jnp.where(later, deviation, own_deviation), blocks
            if anchor != "latent":
                return (state, kept), statistics
            aligned = align(x, free, mean, deviation, strength)
            return (solver.put(state, jnp.where(later, aligned, x)), kept), statistics

        noise = frame_noise(key, window * stride, length, shape, noise_share)
        start = first_state(solver, noise, conditionings, guidance)
        scanned = jnp.arange(solver.steps), *(carry[name] for name in STATISTICS)
        (state, _), statistics = jax.lax.scan(body, (start, steps.blank(start)), scanned)
        made = begin(solver.result(state))
        return {"prefix": made[:, stride:], **dict(zip(STATISTICS, statistics))}, made

    return scan_windows(run, carry, first, total, size, (shape[0], length, *shape[1:]))


def anchored(
    told: Conditioning, statistics: Mapping[str, Array], free: Float[Array, " f"], strength: Float[Array, ""]
) -> Conditioning:
    """The conditioning with what features are brought to, alike in every clip."""
    clips = next(iter(statistics.values())).shape[0]
    spread = jnp.broadcast_to(free, (clips, len(free))), jnp.broadcast_to(strength, (clips,))
    return told.replace(anchor=Anchor(statistics, *spread))


def _frame_shape(carry: Carry, solver: Solver, overlap: int) -> tuple[int, int, int, int]:
    batch, frames, *space = carry["prefix"].shape
    steps = carry["mean"].shape[0]
    if (steps, frames) != (solver.steps, overlap):
        raise ShapeError(
            f"the carry holds {steps} solver steps and a prefix of {frames} frames, but this run has {solver.steps} steps "
            f"and a prefix of {overlap}; go on with the solver and windows that made the carry, or start anew"
        )
    return (batch, *space)
