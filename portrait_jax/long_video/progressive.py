"""Videos of any length from keyframes: first a few frames far apart, then what lies between two of them, recursively.

A clip has L frames, S = L − 1 steps apart in time: level k of the recursion has frames S^k apart. The top clip covers the
whole video and is given nothing; every other clip lies between two neighbouring frames of a clip one level above, which it
is given as its first and last (masked latents: arXiv 2406.01900, section 3.3). Clips are made depth first, so that frames
come out in order: what is kept is one clip per level, and levels grow with the logarithm of the video's length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from portrait_jax.conditioning import Conditioning
from portrait_jax.diffusion.caching import UNCACHED, CacheSchedule, Kept
from portrait_jax.diffusion.guidance import Guidance
from portrait_jax.diffusion.pinned import Pinned
from portrait_jax.diffusion.sampler import Denoise, cached_steps, first_state
from portrait_jax.diffusion.solvers import Solver
from portrait_jax.errors import ConfigError
from portrait_jax.long_video.known import tell
from portrait_jax.long_video.overlap import check_span, chunk_sampler, noise_of, step_noise
from portrait_jax.long_video.plan import Plan, check_windows
from portrait_jax.typing import Array, Float, Int, PRNGKeyArray, PyTree

Carry = dict[str, PyTree]
"""{"clips": the newest clip of every level `k b f h w c`, level 0 first}."""

Clips = dict[str, Array]
"""The clips of a chunk, integers " win": `level`, `start` (first frame), `step` (frames from one to the next), `slot` (which
frame of the clip above is its first) and `active` (0 past the end)."""


@dataclass(frozen=True, eq=False)
class Gaps(Plan):
    """The clips of a video in the order in which they are made; the units of the plan.

    Attributes:
        depth: levels above the one whose frames are neighbours in the video.
        levels, starts, slots: of each clip, see `Clips`.
    """

    depth: int
    levels: Int[np.ndarray, " win"]
    starts: Int[np.ndarray, " win"]
    slots: Int[np.ndarray, " win"]

    @property
    def stride(self) -> int:
        """Frames from one clip of the lowest level to the next."""
        return self.length - 1

    @property
    def borders(self) -> Int[np.ndarray, " n"]:
        """Keyframes come from a level above, so that each has a border on both sides."""
        both = (self.blended[:, None] + np.arange(2)).reshape(-1)
        return both[both < self.frames]

    @property
    def blended(self) -> Int[np.ndarray, " n"]:
        return self.starts[self.levels == 0][1:]

    def source_frames(self, first: int, size: int) -> Int[np.ndarray, " f"]:
        """The frames of each clip, one clip after another; past the end of the video its last frame repeats."""
        clips = self._chunk(first, size)
        frames = clips["start"][:, None] + clips["step"][:, None] * np.arange(self.length)
        return np.minimum(frames, self.frames - 1).reshape(-1)

    def arguments(self, first: int, size: int) -> tuple[dict[str, np.ndarray]]:
        """`clips` of `sample_gaps`."""
        return (self._chunk(first, size),)

    def blank(self, solver: Solver, shape: tuple[int, int, int, int]) -> Carry:
        """See `init_carry`."""
        return init_carry(self.depth, self.length, shape)

    def sampler(self, denoise: Callable[..., Array], size: int, **settings: Any) -> Callable[..., tuple[Carry, Array]]:
        """See `overlap.chunk_sampler`."""
        return chunk_sampler(sample_gaps, denoise, **settings)

    def _chunk(self, first: int, size: int) -> dict[str, np.ndarray]:
        index = first + np.arange(size)
        active, index = index < self.count, np.minimum(index, self.count - 1)
        level = self.levels[index]
        chosen = {
            "level": level,
            "start": self.starts[index],
            "step": self.stride**level,
            "slot": self.slots[index],
            "active": active,
        }
        return {name: value.astype(np.int32) for name, value in chosen.items()}


def plan_gaps(frames: int, length: int) -> Gaps:
    """Covers `frames` frames by clips of `length`; all on one level if they fit into one clip.

    Every frame is made once, and emitted by the clip of the lowest level that begins with it or holds it inside; the last
    clip emits its last frame too. Frames past the end of the video are made where a clip needs them, and not emitted.

    Raises:
        ConfigError: for less than one frame; for clips that have no frame between first and last but should.
    """
    check_windows(frames, length)
    if length < 3 and frames > length:
        raise ConfigError(f"clips of {length} frames have nothing between their ends to fill; give at least 3")
    stride, depth = length - 1, 0
    while stride ** (depth + 1) < frames - 1:
        depth += 1

    def clips(level: int, start: int, slot: int) -> Iterator[tuple[int, int, int]]:
        yield level, start, slot
        step = stride**level
        for slot in range(stride if level else 0):
            if start + slot * step < frames - 1:
                yield from clips(level - 1, start + slot * step, slot)

    levels, starts, slots = np.array(list(clips(depth, 0, 0))).T
    emitted = np.where(levels == 0, stride, 0)
    emitted[-1] = frames - emitted[:-1].sum()
    return Gaps(frames=frames, length=length, emitted=emitted, depth=depth, levels=levels, starts=starts, slots=slots)


def init_carry(depth: int, length: int, shape: tuple[int, int, int, int]) -> Carry:
    """The carry before the first clip; zeros, which no clip reads. `shape` is (b, h, w, c)."""
    batch, *space = shape
    return {"clips": jnp.zeros((depth + 1, batch, length, *space), jnp.float32)}


def sample_gaps(
    denoise: Denoise,
    conditionings: Mapping[str, Conditioning],
    carry: Carry,
    key: PRNGKeyArray,
    clips: Clips,
    *,
    solver: Solver,
    guidance: Guidance,
    noise_share: float = 0.0,
    cache: CacheSchedule = UNCACHED,
    batched: bool = True,
) -> tuple[Carry, Float[Array, "win b f h w c"]]:
    """Samples a chunk of clips: a scan over clips around a scan over solver steps.

    Chunk after chunk equals one large chunk bit for bit. The first noise of a frame is `noise_of` its number, on whatever
    level it is made. Given frames come out of a clip exactly as they went in; the network is told of them
    (`Conditioning.known`, `given`), and whether it listens or not they are held where they must be (`diffusion.pinned`).

    Args:
        denoise: the network, see `Denoise`.
        conditionings: per branch; per-frame fields cover the frames `Gaps.source_frames(first, size)`.
        carry: what the chunk before returned, or `init_carry`.
        key: the same for all chunks of a video.
        clips: of the chunk, from `Gaps.arguments`; may be traced.
        noise_share: correlation of the first noise between frames, see `mixed_noise`.
        cache: the schedule of feature caching; what is kept is a clip's own and ends with it.

    Returns:
        The new carry, and the latents of all clips, whole; `Plan.emit` picks the frames to keep.

    Raises:
        ShapeError: if the conditioning covers other frames.
        ConfigError: see `guided_step`.
    """
    levels, batch, length, *space = carry["clips"].shape
    shape = (batch, *space)
    check_span(conditionings, clips["level"].size * length)
    is_end = jnp.isin(jnp.arange(length), np.array([0, length - 1]))

    def run(carry: Carry, clip: Clips, position: Array) -> tuple[Carry, Array]:
        above = carry["clips"][jnp.minimum(clip["level"] + 1, levels - 1)]
        given = jnp.broadcast_to(is_end & (clip["level"] < levels - 1), (batch, length)).astype(jnp.float32)
        known = jnp.zeros_like(above).at[:, 0].set(above[:, clip["slot"]]).at[:, -1].set(above[:, clip["slot"] + 1])
        local = {
            name: tell(value.window(position * length, length), known, given) for name, value in conditionings.items()
        }
        pinned = Pinned.to(solver, known, given)
        steps = cached_steps(denoise, local, pinned, guidance, cache, batched=batched)
        numbers = clip["start"] + clip["step"] * jnp.arange(length)
        fresh = step_noise(solver, key, numbers, shape)

        def body(carried: tuple[PyTree, Kept], index: Array) -> tuple[tuple[PyTree, Kept], None]:
            state, kept = carried
            return steps.step(state, index, fresh(index), kept), None

        start = first_state(pinned, noise_of(key, numbers, shape, noise_share), local, guidance)
        (state, _), _ = jax.lax.scan(body, (start, steps.blank(start)), jnp.arange(solver.steps))
        made = jnp.where(given[:, :, None, None, None] > 0, known, solver.result(state))
        return {"clips": carry["clips"].at[clip["level"]].set(made)}, made

    def skip(carry: Carry, clip: Clips, position: Array) -> tuple[Carry, Array]:
        return carry, jnp.zeros((batch, length, *space), jnp.float32)

    def visit(carry: Carry, scanned: tuple[Clips, Array]) -> tuple[Carry, Array]:
        clip, position = scanned
        return jax.lax.cond(clip["active"] > 0, run, skip, carry, clip, position)

    return jax.lax.scan(visit, carry, (clips, jnp.arange(clips["level"].size)))
