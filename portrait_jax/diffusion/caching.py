"""Feature caching: on most solver steps a network's deep layers are not run, and what they gave at an earlier step is used again.

Neighbouring steps differ little in what deep layers make of them: those of a UNet (DeepCache, arXiv 2312.00858) and what a
transformer's blocks add to its tokens together (MagCache, arXiv 2506.09045). Which steps are run whole is settled before sampling
by the number of the step alone, so that one compiled program holds both kinds and nothing is measured on the way. How much of a
network is deep is its own affair: it is told by `Conditioning.cache`, and returns its features beside its prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from portrait_jax.conditioning import FeatureCache
from portrait_jax.errors import ConfigError
from portrait_jax.typing import Array, Bool, Int, PyTree

Kept = Mapping[str, PyTree]
"""Guidance branch → its deep features, leaves "b …". Without caching there is no branch in it."""
Evaluate = Callable[[Array, Array, Mapping[str, FeatureCache]], tuple[Array, Kept]]
"""(noisy latents `b f h w c`, scalar timestep, {branch: what it is told}) → (guided prediction, {branch: its deep features})."""


@dataclass(frozen=True)
class CacheSchedule:
    """When a network is run whole.

    Attributes:
        every: every so many-th step is; 1: all are, and nothing is kept.
        depth: how many of a UNet's last layers run at the others too, see `conditioning.FeatureCache`.
    """

    every: int = 1
    depth: int = 2

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ConfigError(f"sampling.cache_every {self.every} must be at least 1, which caches nothing")

    @property
    def on(self) -> bool:
        """Whether anything is kept."""
        return self.every > 1

    def whole(self, steps: int, guided: Bool[np.ndarray, " s"] | None = None) -> Bool[np.ndarray, " s"]:
        """At which steps the network is run whole.

        Where guidance begins after the first step (`guided`, see `Guidance.active`) it is too, for its other branches have no
        features before.
        """
        whole = np.arange(steps) % self.every == 0
        if guided is not None and guided.any():
            whole[guided.argmax()] = True
        return whole

    def refuse(self, what: str, instead: str = "") -> None:
        """Raises ConfigError if anything is kept, for `what` cannot keep it; `instead` says what could take its place."""
        if self.on:
            raise ConfigError(f"sampling.cache_every {self.every} does not go with {what}; {instead}set it to 1")


UNCACHED = CacheSchedule()
"""The whole network at every step."""


def choose(
    rules: Sequence[tuple[Evaluate, tuple[str, ...]]],
    schedule: CacheSchedule,
    timesteps: Array,
    guided: Bool[np.ndarray, " s"] | None,
) -> Callable[[Array, Int[Array, ""] | int, Kept], tuple[Array, Kept]]:
    """Builds predict(noisy latents, step, kept) → (prediction, kept).

    Args:
        rules: each with its branches; the last one where guidance acts, the first of two where it does not.
        timesteps: what the network is told at each step.
        guided: at which steps guidance acts, if not at all.
    """
    ways = [_way(*rule, schedule.depth, reuse) for rule in rules for reuse in (True, False)]
    rest = schedule.whole(len(timesteps), guided) + 2 * (0 if guided is None else guided)
    table = jnp.asarray(rest, jnp.int32)

    def predict(x: Array, index: Int[Array, ""] | int, kept: Kept) -> tuple[Array, Kept]:
        return jax.lax.switch(table[index], ways, x, timesteps[index], kept)

    return predict


def blank(rule: tuple[Evaluate, tuple[str, ...]], schedule: CacheSchedule, x: Array, timestep: Array) -> Kept:
    """Zeros as large as what `rule` keeps, which the first step does not read."""
    _, kept = jax.eval_shape(_way(*rule, schedule.depth, reuse=False), x, timestep, {})
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), kept)


def _way(
    evaluate: Evaluate, branches: tuple[str, ...], depth: int, reuse: bool
) -> Callable[[Array, Array, Kept], tuple[Array, Kept]]:
    def run(x: Array, timestep: Array, kept: Kept) -> tuple[Array, Kept]:
        told = {name: FeatureCache(depth, kept[name] if reuse else None) for name in branches}
        prediction, own = evaluate(x, timestep, told)
        return prediction, {**kept, **own}

    return run
