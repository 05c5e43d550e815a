"""Windows that are denoised jointly: before each solver step their predictions for a frame are averaged into one.

This is MultiDiffusion (arXiv 2302.08113) along time. Three arrangements are in published use (`long_video.tiles`): windows
side by side whose last one wraps round to the first frames; overlapping windows whose frames weigh by a Gaussian about the
window's middle; and overlapping windows that lie elsewhere at every step. Where an original averages what a solver step
makes of each window (and not the predictions), the result is the same for a solver whose step is affine in (latents,
prediction), as DDIM's is.

All windows of a group act on each other, so no frame of it is done before its last step. Windows that share no frame form
groups of their own, and groups are sampled one after another: wrapped windows take the memory of two windows, overlapping
ones that of all the video's latents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from portrait_jax.conditioning import Conditioning
from portrait_jax.diffusion.guidance import Guidance
from portrait_jax.diffusion.sampler import first_state, guided_at
from portrait_jax.diffusion.solvers import Index, Solver
from portrait_jax.errors import ConfigError
from portrait_jax.long_video.overlap import check_span
from portrait_jax.long_video.tiles import Tiles
from portrait_jax.typing import Array, Float, Int, Params, PyTree

Predict = Callable[[Int[np.ndarray, "win t"], Array, Index], Array]
"""(frame numbers of some windows, their noisy latents `(b win) t h w c`, solver step) → guided prediction `(b win) t h w c`."""


def averaged(
    predict: Predict, x: Float[Array, "b f h w c"], tiles: Tiles, group: int, step: int
) -> Float[Array, "b f h w c"]:
    """The prediction for the frames `tiles.under(group)` at a solver step: its windows', by their shares.

    Args:
        predict: the network; called batch by batch (`Tiles.batch`), so that so many windows' conditioning is in memory at a time.
        x: noisy latents of these frames.
    """
    frames, index = tiles.under(group), tiles.at(step)
    output = jnp.zeros_like(x)
    for windows in tiles.batches(group):
        places = np.searchsorted(frames, index[windows])
        noisy = x[:, places]
        seen = predict(index[windows], noisy.reshape(-1, *noisy.shape[2:]), step).reshape(noisy.shape)
        for number in range(len(np.unique(windows))):
            share = tiles.share[windows[number]].astype(np.float32)
            output = _add(output, seen[:, number], share, places[number])
    return output


def denoise_group(
    predict: Predict, state: PyTree, tiles: Tiles, group: int, solver: Solver, first: int = 0
) -> Iterator[PyTree]:
    """Takes the solver's steps for one group of windows; yields the state after each.

    Args:
        predict: the network, see `averaged`.
        state: the solver's state of the frames `tiles.under(group)`, leaves "b f h w c".
        first: the step to begin with.

    Raises:
        ConfigError: for a stochastic solver, whose fresh noise no published arrangement defines.
    """
    if solver.stochastic:
        raise ConfigError("jointly denoised windows need a solver without fresh noise; set eta to 0")
    advance, state = jax.jit(solver.step), jax.tree.map(jnp.asarray, state)
    for step in range(first, solver.steps):
        state = advance(state, averaged(predict, solver.result(state), tiles, group, step), step)
        yield state


def conditioned_predict(
    denoise: Callable[..., Array],
    params: Params,
    conditionings: Mapping[str, Conditioning],
    solver: Solver,
    guidance: Guidance,
    *,
    batched: bool = True,
) -> Predict:
    """`Predict` of a network whose conditioning is in memory for all frames; one program for all batches and steps.

    Args:
        denoise: (params, noisy, timestep, conditioning) → prediction.
        conditionings: per branch; per-frame fields cover all frames.
        batched: see `diffusion.sampler.guided_step`.
    """

    @jax.jit
    def predict(params, conditionings, frames, x, step):
        local = {name: value.windows(frames) for name, value in conditionings.items()}
        return guided_at(partial(denoise, params), local, solver, guidance, batched=batched)(x, step)

    return lambda frames, x, step: predict(params, conditionings, jnp.asarray(frames), x, step)


def sample_joint(
    denoise: Callable[..., Array],
    params: Params,
    conditionings: Mapping[str, Conditioning],
    noise: Float[Array, "b f h w c"],
    tiles: Tiles,
    *,
    solver: Solver,
    guidance: Guidance,
    batched: bool = True,
) -> Float[Array, "b f h w c"]:
    """Samples a whole video in memory, around `Conditioning.start` where there is one.

    Args:
        denoise, conditionings: see `conditioned_predict`.
        noise: unit-variance noise of all frames.

    Raises:
        ShapeError: if the conditioning covers other frames.
        ConfigError: see `denoise_group` and `guided_step`.
    """
    check_span(conditionings, tiles.frames)
    predict = conditioned_predict(denoise, params, conditionings, solver, guidance, batched=batched)
    result = jnp.zeros_like(noise)
    for group in range(tiles.count):
        frames = tiles.under(group)
        state = first_state(solver, noise[:, frames], conditionings, guidance)
        *_, last = denoise_group(predict, state, tiles, group, solver)
        result = result.at[:, frames].set(solver.result(last))
    return result


@partial(jax.jit, donate_argnames="total")
def _add(
    total: Float[Array, "b f h w c"],
    part: Float[Array, "b t h w c"],
    share: Float[Array, " t"],
    place: Int[Array, " t"],
) -> Float[Array, "b f h w c"]:
    """`total` with a window's part at its places among the group's frames."""
    return total.at[:, place].add(share[:, None, None, None] * part.astype(total.dtype))
