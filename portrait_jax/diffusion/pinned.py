"""A solver that holds some frames on the noisy path of clean latents that are known already."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from portrait_jax.diffusion.prediction import training_target
from portrait_jax.diffusion.solvers import Index, Solver
from portrait_jax.typing import Array, Float, PyTree


@dataclass(frozen=True, eq=False, kw_only=True)
class Pinned(Solver):
    """`inner`, told the truth about the frames where `given` is 1: for these the network's answer does not count.

    Their states then are α x0 + σ ε with the noise they began with, which is what a network that is given clean frames has
    seen in training. The result equals `known` there but for rounding.
    """

    inner: Solver
    known: Float[Array, "b f h w c"]
    given: Float[Array, "b f"]

    @classmethod
    def to(cls, inner: Solver, known: Float[Array, "b f h w c"], given: Float[Array, "b f"]) -> Pinned:
        """`inner` held to `known` where `given` is 1."""
        return cls(grid=inner.grid, prediction=inner.prediction, inner=inner, known=known, given=given)

    @property
    def stochastic(self) -> bool:
        return self.inner.stochastic

    def init(self, noise: Array, around: Array | None = None) -> PyTree:
        """Given frames start around what is known of them, with the same noise."""
        free, held = self.inner.init(noise, around), self.inner.init(noise, self.known)
        return jax.tree.map(lambda *leaves: jnp.where(self.given[:, :, None, None, None] > 0, *leaves), held, free)

    def result(self, state: PyTree) -> Array:
        return self.inner.result(state)

    def put(self, state: PyTree, x: Array) -> PyTree:
        return self.inner.put(state, x)

    def step(self, state: PyTree, output: Array, index: Index, noise: Array | None = None) -> PyTree:
        alpha, sigma = (jnp.asarray(table, jnp.float32)[index] for table in self.grid.read)
        epsilon = (self.inner.result(state) - alpha * self.known) / sigma
        exact = training_target(self.prediction, self.known, epsilon, alpha, sigma)
        given = self.given[:, :, None, None, None] > 0
        return self.inner.step(state, jnp.where(given, exact, output.astype(jnp.float32)), index, noise)
