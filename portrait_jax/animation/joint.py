"""Animates by windows that are denoised jointly (`long_video.joint`): step by step, one batch of windows after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import jax
import numpy as np

from portrait_jax.diffusion.guidance import Guidance
from portrait_jax.diffusion.sampler import guided_at
from portrait_jax.diffusion.solvers import Index, Solver
from portrait_jax.long_video.joint import Predict, denoise_group
from portrait_jax.long_video.tiles import Tiles
from portrait_jax.sharding.placing import ONE_DEVICE, Placing
from portrait_jax.systems.system import System
from portrait_jax.typing import Array, Float, Int, PyTree

KEPT_SIGNALS = 4
"""Windows whose driving arrays are kept from one solver step to the next; those of longer videos are made anew."""

Done = tuple[Float[np.ndarray, "b f h w c"], int, dict[str, PyTree]]
"""Latents of the frames that are done now (often none), the group to go on with, and the carry to go on from."""


def window_prediction(system: System, solver: Solver, guidance: Guidance, windows: int = 1) -> Callable[..., Array]:
    """Jits predict(params, portraits' conditioning "b …", driving arrays "(b win) …", noisy latents "(b win) t h w c", solver
    step) for so many windows at once.

    The driving signal is encoded in every step anew: that costs a hundredth of the step, and keeping it for all frames
    would take megabytes for each.
    """

    @jax.jit
    def predict(params, still, driving, x, step):
        branches = system.encode_driving(params, still.repeat(windows), driving)
        return guided_at(partial(system.denoise, params), branches, solver, guidance)(x, step)

    return predict


def driven_prediction(
    predict: Callable[..., Array],
    params: PyTree,
    still: Any,
    driving: Callable[[Int[np.ndarray, " f"]], dict[str, np.ndarray]],
    placing: Placing = ONE_DEVICE,
) -> Predict:
    """`window_prediction` with its parameters, and driving arrays made as they are needed: `driving` gives those of one window."""

    @lru_cache(KEPT_SIGNALS)
    def kept(frames: tuple[int, ...]) -> dict[str, np.ndarray]:
        return driving(np.array(frames))

    def run(frames: Int[np.ndarray, "win t"], x: Array, step: Index) -> Array:
        found = [kept(tuple(window)) for window in frames.tolist()]
        return predict(params, still, *placing.items((found[0] if len(found) == 1 else side_by_side(found), x)), step)

    return run


def side_by_side(windows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Arrays "b …" of several windows as items of the batch axis, "(b win) …"."""
    stacked = {name: np.stack([window[name] for window in windows], axis=1) for name in windows[0]}
    return {name: array.reshape(-1, *array.shape[2:]) for name, array in stacked.items()}


def sample_groups(
    predict: Predict,
    noise: Callable[[Int[np.ndarray, " f"]], Array],
    tiles: Tiles,
    solver: Solver,
    start: int,
    carry: dict[str, PyTree],
    around: Float[Array, "b h w c"] | None = None,
) -> Iterator[Done]:
    """Samples group after group and yields after each solver step, frames in order as soon as all before them are done.

    Args:
        predict: see `long_video.joint.Predict`.
        noise: frame numbers → their unit-variance noise "b f h w c".
        start, carry: where to go on: what an earlier run yielded, or 0 and `Tiles.blank`.
        around: clean latents that every frame starts around (`Conditioning.start`); None: pure noise.
    """
    middle = None if around is None else around[:, None]
    for group in range(start, tiles.count):
        step, held = int(carry["step"]), np.asarray(carry["held"])
        begin = solver.init(noise(tiles.under(group)), middle) if step == 0 else carry["state"]
        for number, state in enumerate(denoise_group(predict, begin, tiles, group, solver, step), step + 1):
            if number < solver.steps:
                yield held[:, :0], group, {"step": np.array(number), "state": jax.device_get(state), "held": held}
        latents = np.concatenate([held, np.asarray(solver.result(state))], axis=1)
        frames = np.concatenate([tiles.held(group), tiles.under(group)])
        ordered, done = latents[:, np.argsort(frames)], int((frames < tiles.begin(group + 1)).sum())
        carry = {**tiles.blank(solver, (len(latents), *latents.shape[2:])), "held": ordered[:, done:]}
        yield ordered[:, :done], group + 1, carry
