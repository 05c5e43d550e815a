"""Deep stacks of equal layers: compiled once, their parameters side by side, with a choice of what the backward pass keeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import linen as nn

from portrait_jax.errors import ConfigError, nearest

POLICIES: dict[str, Callable[..., bool] | None] = {
    "full": None,
    "dots": jax.checkpoint_policies.dots_saveable,
    "weights": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
"""What is kept of a layer for the backward pass: nothing but its input; all matrix products; those with weights, which leaves
the scores of attention out."""


def check_remat(name: str) -> None:
    """Raises ConfigError, naming the nearest, for anything but "none" and the names of `POLICIES`."""
    if name != "none" and name not in POLICIES:
        raise ConfigError(f"remat policy '{name}' does not exist{nearest(name, ['none', *POLICIES])}")


def scanned(
    layer: type[nn.Module], count: int, in_axes: Sequence[Any], remat: str = "none"
) -> Callable[..., nn.Module]:
    """A module of `count` layers of one class: carry, inputs → carry, stacked outputs. Each parameter's first axis is the layer.

    Args:
        layer: called as `layer(…)(carry, *inputs)`, returns (carry, output).
        in_axes: per input 0 where each layer has its own along the first axis, `nn.broadcast` where all get the same.
        remat: "none" keeps everything that the backward pass needs; otherwise see `POLICIES`.

    Raises:
        ConfigError: for an unknown policy.
    """
    check_remat(remat)
    if remat != "none":
        layer = nn.remat(layer, prevent_cse=False, policy=POLICIES[remat])
    return nn.scan(
        layer, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=tuple(in_axes), length=count
    )
