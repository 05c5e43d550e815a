"""Videos of any length from overlapping windows: one `lax.scan` over windows with a small, resumable carry.

Window k covers `length` frames from k · (length − overlap). While it is sampled, before every solver step, its first
`overlap` frames are pulled towards the states that the window before had for the same frames at the same step. The pull
fades over the overlap, so motion passes continuously from one window into the next; nothing flows backwards, so frames
can be emitted at once and memory does not grow with the video. (MultiDiffusion, arXiv 2302.08113, blends all windows
at every step jointly; here only the past acts on the future.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from portrait_jax.conditioning import Conditioning
from portrait_jax.diffusion.caching import UNCACHED, CacheSchedule, Kept
from portrait_jax.diffusion.guidance import Guidance
from portrait_jax.diffusion.noise import mixed_noise, noise_alike
from portrait_jax.diffusion.sampler import Denoise, cached_steps, first_state
from portrait_jax.diffusion.solvers import Solver
from portrait_jax.errors import ShapeError
from portrait_jax.long_video.plan import Plan, check_windows
from portrait_jax.typing import Array, Float, Int, PRNGKeyArray, PyTree

Carry = dict[str, PyTree]
"""{"trajectory": the solver states `s b overlap h w c` of the last window's last frames before every step}."""

_STEP_STREAM, _COMMON_STREAM = 2**31 - 1, 2**31 - 2
"""Folded into the key for the noise of a stochastic solver's steps, and for what frames have in common; no frame has
these numbers."""


@dataclass(frozen=True, eq=False)
class Windows(Plan):
    """Where the windows lie and what each emits; the units of the plan.

    Attributes:
        overlap: frames shared by neighbours.
        starts: first frame of each window.
    """

    overlap: int
    starts: Int[np.ndarray, " win"]

    @property
    def stride(self) -> int:
        """Frames from one window's start to the next."""
        return self.length - self.overlap

    @property
    def borders(self) -> Int[np.ndarray, " n"]:
        return self.starts[1:]

    @property
    def blended(self) -> Int[np.ndarray, " n"]:
        shared = (self.starts[1:, None] + np.arange(self.overlap)).reshape(-1)
        return shared[shared < self.frames]

    def source_frames(self, first: int, size: int) -> Int[np.ndarray, " f"]:
        """Video frames under the chunk of `size` windows from window `first`; past the end the last frame repeats."""
        span = (size - 1) * self.stride + self.length
        return np.minimum(first * self.stride + np.arange(span), self.frames - 1)

    def arguments(self, first: int, size: int) -> tuple[int, int]:
        """`first` and `total` of `sample_windows`."""
        return first, self.count

    def blank(self, solver: Solver, shape: tuple[int, int, int, int]) -> Carry:
        """See `init_carry`."""
        return init_carry(solver, self.overlap, shape)

    def sampler(self, denoise: Callable[..., Array], size: int, **settings: Any) -> Callable[..., tuple[Carry, Array]]:
        """See `chunk_sampler`."""
        return chunk_sampler(sample_windows, denoise, length=self.length, overlap=self.overlap, size=size, **settings)


def plan_windows(frames: int, length: int, overlap: int) -> Windows:
    """Covers `frames` frames by windows of `length` that overlap by `overlap`.

    All but the last window emit length − overlap frames, the last one the rest: every frame is emitted once, in order.
    Where the last window (or the only one, of a short video) reaches past the end, the last frame repeats.

    Raises:
        ConfigError: unless frames ≥ 1 and 0 ≤ overlap < length.
    """
    check_windows(frames, length, overlap)
    stride = length - overlap
    count = 1 + -(-max(frames - length, 0) // stride)
    emitted = np.full(count, stride)
    emitted[-1] = frames - (count - 1) * stride
    return Windows(frames=frames, length=length, emitted=emitted, overlap=overlap, starts=np.arange(count) * stride)


def frame_noise(
    key: PRNGKeyArray, start: int | Int[Array, ""], length: int, shape: tuple[int, int, int, int], share: float = 0.0
) -> Float[Array, "b f h w c"]:
    """Unit-variance noise of frames start … start + length, a function of (key, frame) only.

    Hence clips that are sampled together have the noise that each has alone, and frames that two windows share start equal,
    wherever the windows lie. `start` may be traced.

    Args:
        shape: (b, h, w, c) of one frame's latents.
        share: correlation between frames, see `mixed_noise`.
    """
    return noise_of(key, start + jnp.arange(length), shape, share)


def noise_of(
    key: PRNGKeyArray, frames: Int[Array, " f"], shape: tuple[int, int, int, int], share: float = 0.0
) -> Float[Array, "b f h w c"]:
    """`frame_noise` of any frames, by their numbers."""

    def one(frame: Array) -> Array:
        return noise_alike(jax.random.fold_in(key, frame), shape)

    own = jax.vmap(one, out_axes=1)(frames)
    return mixed_noise(own, one(jnp.asarray(_COMMON_STREAM))[:, None], share)


def init_carry(solver: Solver, overlap: int, shape: tuple[int, int, int, int]) -> Carry:
    """The carry before window 0; zeros, which window 0 does not read. `shape` is (b, h, w, c)."""
    batch, *space = shape
    state = jax.eval_shape(solver.init, jax.ShapeDtypeStruct((batch, overlap, *space), jnp.float32))
    return {"trajectory": jax.tree.map(lambda leaf: jnp.zeros((solver.steps, *leaf.shape), leaf.dtype), state)}


def sample_windows(
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
    noise_share: float = 0.0,
    cache: CacheSchedule = UNCACHED,
    batched: bool = True,
) -> tuple[Carry, Float[Array, "win b f h w c"]]:
    """Samples a chunk of windows: a scan over windows around a scan over solver steps.

    Chunk after chunk equals one large chunk bit for bit, and a single window equals `sample` from the noise
    `frame_noise(key, 0, length, shape, noise_share)`.

    Args:
        denoise: the network, see `Denoise`.
        conditionings: per branch; per-frame fields cover the frames `Windows.source_frames(first, size)`.
        carry: what the chunk before returned, or `init_carry`.
        key: the same for all chunks of a video.
        first: index of the chunk's first window; may be traced.
        total: number of windows of the video; windows from there on are skipped, at no cost, and come back as zeros.
        length, overlap: frames per window and shared by neighbours.
        size: windows in this chunk.
        noise_share: correlation of the first noise between frames, see `mixed_noise`.
        cache: the schedule of feature caching; what is kept is a window's own and ends with it.

    Returns:
        The new carry, and the latents of all windows, whole; `Windows.emit` picks the frames to keep.

    Raises:
        ShapeError: if the carry has been made for another solver or overlap, or the conditioning covers other frames.
        ConfigError: see `guided_step`.
    """
    stride = length - overlap
    shape = _frame_shape(carry, solver, overlap)
    check_span(conditionings, (size - 1) * stride + length)

    def run(carry: Carry, position: Array) -> tuple[Carry, Array]:
        window = first + position
        local = {name: value.window(position * stride, length) for name, value in conditionings.items()}
        steps = cached_steps(denoise, local, solver, guidance, cache, batched=batched)
        fresh = step_noise(solver, key, window * stride + jnp.arange(length), shape)

        def body(carried: tuple[PyTree, Kept], scanned: tuple[Array, PyTree]) -> tuple[tuple[PyTree, Kept], PyTree]:
            (state, kept), (index, past) = carried, scanned
            state = jax.tree.map(partial(_pull, is_first=window == 0), state, past)
            # The slice starts at `stride`, not at −overlap, which would be everything for overlap 0.
            return steps.step(state, index, fresh(index), kept), jax.tree.map(lambda leaf: leaf[:, stride:], state)

        noise = frame_noise(key, window * stride, length, shape, noise_share)
        start = first_state(solver, noise, conditionings, guidance)
        scanned = jnp.arange(solver.steps), carry["trajectory"]
        (state, _), trajectory = jax.lax.scan(body, (start, steps.blank(start)), scanned)
        return {"trajectory": trajectory}, solver.result(state)

    return scan_windows(run, carry, first, total, size, (shape[0], length, *shape[1:]))


def scan_windows(
    run: Callable[[Carry, Array], tuple[Carry, Array]],
    carry: Carry,
    first: int | Int[Array, ""],
    total: int | Int[Array, ""],
    size: int,
    shape: tuple[int, ...],
) -> tuple[Carry, Float[Array, "win b f h w c"]]:
    """Runs `size` windows from number `first` on, one after another; those from `total` on cost nothing and come back as zeros.

    Args:
        run: (carry, window's place in the chunk) → the new carry, and the window's latents.
        shape: (b, f, h, w, c) of these.
    """

    def skip(carry: Carry, position: Array) -> tuple[Carry, Array]:
        return carry, jnp.zeros(shape, jnp.float32)

    def visit(carry: Carry, position: Array) -> tuple[Carry, Array]:
        return jax.lax.cond(first + position < total, run, skip, carry, position)

    return jax.lax.scan(visit, carry, jnp.arange(size))


def chunk_sampler(
    sample: Callable[..., tuple[Carry, Array]], denoise: Callable[..., Array], **static: Any
) -> Callable[..., tuple[Carry, Array]]:
    """Jits `sample` for a network with parameters; one compilation serves all chunks and lengths of videos.

    Args:
        sample: (denoise, conditionings, carry, key, and what says which chunk it is; `static` by name) → (carry, latents).
        denoise: (params, noisy, timestep, conditioning) → prediction.

    Returns:
        run(params, conditionings, carry, key, …) → (carry, latents). The given carry is donated: its arrays cannot be read
        afterwards.
    """

    @partial(jax.jit, donate_argnames=("carry",))
    def run(params, conditionings, carry, key, *chunk):
        return sample(partial(denoise, params), conditionings, carry, key, *chunk, **static)

    return run


def _pull(
    own: Float[Array, "b f h w c"], past: Float[Array, "b o h w c"], is_first: Array
) -> Float[Array, "b f h w c"]:
    """Blends the first frames with those of the window before; own weight (j + 1)/(overlap + 1) for frame j."""
    overlap = past.shape[1]
    ramp = (np.arange(1, overlap + 1, dtype=np.float32) / (overlap + 1))[:, None, None, None]
    head = own[:, :overlap]
    mixed = jnp.where(is_first, head, (1 - ramp) * past + ramp * head)
    return jnp.concatenate([mixed, own[:, overlap:]], axis=1)


def step_noise(
    solver: Solver, key: PRNGKeyArray, numbers: Int[Array, " f"], shape: tuple[int, int, int, int]
) -> Callable[[Array], Array | None]:
    """Step index → fresh noise of the frames with these numbers, a function of (key, step, frame); None if none is needed."""
    if not solver.stochastic:
        return lambda index: None
    stream = jax.random.fold_in(key, _STEP_STREAM)
    return lambda index: noise_of(jax.random.fold_in(stream, index), numbers, shape)


def _frame_shape(carry: Carry, solver: Solver, overlap: int) -> tuple[int, int, int, int]:
    leaf = jax.tree.leaves(carry["trajectory"])[0]
    steps, batch, frames, *space = leaf.shape
    expected = jax.eval_shape(lambda: init_carry(solver, overlap, (batch, *space)))
    if jax.tree.map(jnp.shape, carry) != jax.tree.map(jnp.shape, expected):
        raise ShapeError(
            f"the carry holds {steps} solver steps of {frames} frames, but this run has {solver.steps} steps and an "
            f"overlap of {overlap}; go on with the solver and windows that made the carry, or start anew"
        )
    return (batch, *space)


def check_span(conditionings: Mapping[str, Conditioning], span: int) -> None:
    """Raises ShapeError unless every per-frame field covers `span` frames."""
    for name, conditioning in conditionings.items():
        for field, frames in conditioning.frame_counts().items():
            if frames != span:
                raise ShapeError(f"conditioning '{name}.{field}' covers {frames} frames, but the windows cover {span}")
