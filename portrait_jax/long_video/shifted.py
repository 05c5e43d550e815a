"""Videos from overlapping windows whose predictions are averaged at every step (MultiDiffusion, arXiv 2302.08113).

All frames are denoised together: before each solver step, the network predicts window by window, predictions of frames that
several windows share are averaged, and the solver moves the whole video. Windows may run around the end of the video and
may lie elsewhere at every step, so that no frame is always at a seam. Latents of the whole video are in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from portrait_jax.conditioning import Conditioning
from portrait_jax.diffusion.guidance import Guidance
from portrait_jax.diffusion.sampler import Denoise, first_state, predictor
from portrait_jax.diffusion.solvers import Solver
from portrait_jax.errors import ConfigError, ShapeError
from portrait_jax.typing import Array, Float, Int, PRNGKeyArray, PyTree


def uniform_windows(
    frames: int, length: int, overlap: int, *, strides: int = 1, step: int = 0, closed: bool = True
) -> Int[np.ndarray, "win f"]:
    """Frame numbers of windows of `length` frames that overlap by `overlap`; of a short video one window of all frames.

    Args:
        strides: how many kinds of windows: of every frame, of every second, of every fourth …
        step: shifts the windows, by a fraction of the video that `halving` gives.
        closed: the last windows run on into the beginning.

    Raises:
        ConfigError: unless frames ≥ 1 and 0 ≤ overlap < length.
    """
    if frames < 1 or not 0 <= overlap < length:
        raise ConfigError(
            f"windows need frames >= 1 and 0 <= overlap < length, not {frames}, {overlap} and {length}; give longer "
            "windows or a smaller overlap"
        )
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


def random_offsets(key: PRNGKeyArray, steps: int, windows: Int[np.ndarray, "win g"]) -> Int[Array, " s"]:
    """By how many frames the windows are shifted at each step: 0 … length − 1; a single window stays where it is."""
    count, length = windows.shape
    return jax.random.randint(key, (steps,), 0, length) if count > 1 else jnp.zeros(steps, jnp.int32)


def sample_joint(
    denoise: Denoise,
    conditionings: Mapping[str, Conditioning],
    noise: Float[Array, "b f h w c"],
    offsets: Int[Array, " s"],
    *,
    solver: Solver,
    guidance: Guidance,
    windows: Int[np.ndarray, "win g"],
    batched: bool = True,
) -> Float[Array, "b f h w c"]:
    """Samples a whole video; pure, for jit.

    Args:
        conditionings: per branch; per-frame fields cover all frames.
        noise: unit-variance noise of all frames; see `Conditioning.start` for another start.
        offsets: added to the windows' frame numbers at each step, around the end of the video.
        windows: see `uniform_windows`; together they cover all frames.

    Raises:
        ShapeError: if the offsets are not one per step, or windows leave frames out.
        ConfigError: see `guided_step`; and for solvers that need fresh noise.
    """
    step = joint_step(denoise, conditionings, solver, guidance, windows, noise.shape[1], batched=batched)
    if offsets.shape != (solver.steps,):
        raise ShapeError(f"{solver.steps} steps need as many offsets, not {offsets.shape}")

    def body(state: PyTree, scanned: tuple[Array, Array]) -> tuple[PyTree, None]:
        return step(state, *scanned), None

    start = first_state(solver, noise, conditionings, guidance)
    state, _ = jax.lax.scan(body, start, (jnp.arange(solver.steps), offsets))
    return solver.result(state)


def joint_step(
    denoise: Denoise,
    conditionings: Mapping[str, Conditioning],
    solver: Solver,
    guidance: Guidance,
    windows: Int[np.ndarray, "win g"],
    frames: int,
    *,
    batched: bool = True,
) -> Callable[[PyTree, Array, Array], PyTree]:
    """Builds step(state, index, offset) → state; arguments and errors as in `sample_joint`."""
    if solver.stochastic:
        raise ConfigError("joint windows take no fresh noise per step; use a solver without (eta 0)")
    predict = joint_predictor(denoise, conditionings, guidance, windows, frames, batched=batched)
    timesteps = jnp.asarray(solver.timesteps)

    def step(state: PyTree, index: Array, offset: Array) -> PyTree:
        predictions = predict(solver.result(state), timesteps[index], offset)
        return solver.step(state, guidance.combine(predictions), index)

    return step


def joint_predictor(
    denoise: Denoise,
    conditionings: Mapping[str, Conditioning],
    guidance: Guidance,
    windows: Int[np.ndarray, "win g"],
    frames: int,
    *,
    batched: bool = True,
) -> Callable[[Array, Array, Array], dict[str, Array]]:
    """Builds predict(x "b f h w c", timestep, offset) → the averaged prediction of each branch for all frames."""
    if set(np.unique(windows)) != set(range(frames)):
        raise ShapeError(f"the windows do not cover the {frames} frames; plan them with uniform_windows")

    def predict(x: Array, timestep: Array, offset: Array) -> dict[str, Array]:
        shifted = (jnp.asarray(windows) + offset) % frames

        def one(sums: dict[str, Array], chosen: Array) -> tuple[dict[str, Array], None]:
            local = {name: value.take(chosen) for name, value in conditionings.items()}
            found = predictor(denoise, local, guidance, batched=batched)(x[:, chosen], timestep)
            return {name: sums[name].at[:, chosen].add(found[name].astype(x.dtype)) for name in sums}, None

        sums, _ = jax.lax.scan(one, {name: jnp.zeros_like(x) for name in guidance.branches}, shifted)
        count = jnp.zeros(frames).at[shifted].add(1)[:, None, None, None]
        return {name: total / count for name, total in sums.items()}

    return predict
