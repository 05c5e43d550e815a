"""A system's parameters from a file, a run's directory, or the package."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import jax

from portrait_jax.errors import CheckpointError, ShapeError, listed
from portrait_jax.systems.system import System
from portrait_jax.training.checkpoints import compare
from portrait_jax.training.params import ASSETS, load_params
from portrait_jax.typing import Params

EMBEDDED: Mapping[str, Path] = MappingProxyType({"follow_your_emoji": ASSETS / "follow_your_emoji_demo.safetensors"})
"""System name → the demo checkpoint that comes with the package."""


def load_system_params(system: System, checkpoint: str | os.PathLike | None = None) -> Params:
    """Reads parameters and checks that they are this system's.

    Args:
        checkpoint: a `.safetensors` file or a training's workdir; None takes the checkpoint in the package.

    Raises:
        CheckpointError: if there is none, or it holds other parameters (listed, at most ten).
        ShapeError: if the parameters have other shapes, as those of another size have.
    """
    if checkpoint is None and system.name not in EMBEDDED:
        raise CheckpointError(
            f"no checkpoint of {system.name} comes with the package (it has: {listed(EMBEDDED)}); name one by --checkpoint"
        )
    source = Path(checkpoint) if checkpoint is not None else EMBEDDED[system.name]
    params, _ = load_params(source)
    try:
        compare(params, jax.eval_shape(system.init, jax.random.key(0)), str(source))
    except (CheckpointError, ShapeError) as error:
        if checkpoint is not None:
            raise
        raise CheckpointError(
            f"no checkpoint was named, and the one in the package is the demo's, which this config does not fit; name one by "
            f"--checkpoint: an import of published weights (docs/convert.md) or a training's workdir ({error})"
        ) from error
    return params
