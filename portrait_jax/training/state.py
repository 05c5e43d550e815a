"""The train state and the split between what trains and what does not."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import jax
import jax.numpy as jnp
import optax
from flax import struct, traverse_util

from portrait_jax.errors import ConfigError, listed, nearest
from portrait_jax.settings import floating
from portrait_jax.training.task import Stage
from portrait_jax.typing import Array, Float, Int, Params, PRNGKeyArray, PyTree


@struct.dataclass
class TrainState:
    """Everything that a step reads and writes; together with the data state it determines all later steps."""

    step: Int[Array, ""]
    """Optimizer steps done."""
    trainable: Params
    """Leaves that change, an adversary's too."""
    frozen: Params
    """Leaves without gradient, optimizer state or average. Disjoint from `trainable`; `merge` joins both."""
    opt_state: PyTree
    ema: Params | None
    """Moving average of `trainable`; None where the stage keeps none."""
    rng: Array
    """Key data of the run's seed; step n uses fold_in(rng, n), so that a resumed run draws the same numbers."""

    if TYPE_CHECKING:  # flax makes it, and does not tell.

        def replace(self, **changes: Any) -> Self: ...

    @property
    def params(self) -> Params:
        """All parameters as the optimizer left them."""
        return merge(self.trainable, self.frozen)

    @property
    def averaged_params(self) -> Params:
        """All parameters, trainable ones averaged where an average is kept."""
        return merge(self.trainable if self.ema is None else self.ema, self.frozen)


def flatten(params: Params) -> dict[str, PyTree]:
    """`{"denoiser": {"conv_in": {"kernel": x}}}` → `{"denoiser/conv_in/kernel": x}`; empty entries are kept."""
    return traverse_util.flatten_dict(params, keep_empty_nodes=True, sep="/")


def unflatten(leaves: Mapping[str, PyTree]) -> dict[str, PyTree]:
    """The inverse of `flatten`."""
    return traverse_util.unflatten_dict(leaves, sep="/")


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether any regular expression matches from the start of `subnet/path/to/leaf`."""
    return any(re.match(pattern, name) for pattern in patterns)


def partition(params: Params, patterns: Sequence[str]) -> tuple[Params, Params]:
    """Splits parameters into (trainable, frozen): trainable are the leaves that a pattern matches.

    Raises:
        ConfigError: for a pattern that matches nothing, or that is no regular expression.
    """
    leaves = flatten(params)
    names = [name for name, leaf in leaves.items() if leaf is not traverse_util.empty_node]
    for pattern in patterns:
        try:
            found = any(re.match(pattern, name) for name in names)
        except re.error as error:
            raise ConfigError(f"trainable pattern '{pattern}' is no regular expression: {error}") from error
        if not found:
            hint = nearest(pattern.split("/")[0], sorted(params))
            raise ConfigError(f"trainable pattern '{pattern}' matches no parameter (from its start){hint}")
    chosen = {name for name in names if matches(name, patterns)}
    trainable = {name: leaf for name, leaf in leaves.items() if name in chosen}
    frozen = {name: leaf for name, leaf in leaves.items() if name not in chosen}
    return unflatten(trainable), unflatten(frozen)


def merge(trainable: Params, frozen: Params) -> Params:
    """Joins what `partition` split.

    Raises:
        ConfigError: if both hold the same leaf.
    """
    first, second = flatten(trainable), flatten(frozen)
    if both := first.keys() & second.keys():
        raise ConfigError(f"both trainable and frozen: {listed(both)}")
    return unflatten({**second, **first})


def create_state(
    params: Params, stage: Stage, optimizer: optax.GradientTransformation, rng: PRNGKeyArray
) -> TrainState:
    """The state before the first step; what is frozen as `stage.frozen_dtype`."""
    trainable, frozen = partition(params, stage.patterns)
    dtype = floating(stage.frozen_dtype, "train.frozen_dtype")
    frozen = jax.tree.map(lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, frozen)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        trainable=trainable,
        frozen=frozen,
        opt_state=optimizer.init(trainable),
        ema=jax.tree.map(jnp.copy, trainable) if stage.ema_decay else None,
        rng=jax.random.key_data(rng),
    )


def update_average(ema: Params, params: Params, step: Int[Array, ""], decay: float) -> Params:
    """One step of the exponential moving average, faster in the first steps: min(decay, (1+n)/(10+n))."""
    rate: Float[Array, ""] = 1 - jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda average, value: average + rate * (value - average), ema, params)
