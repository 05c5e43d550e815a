"""A system's parameters from a file, a run's directory, or the package."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import jax
from jax.sharding import Mesh

from portrait_jax.errors import CheckpointError, ConfigError, ShapeError, listed
from portrait_jax.interchange.published import read_base, subnets_of
from portrait_jax.systems.anyexpress_settings import CONTROL_NETWORKS
from portrait_jax.systems.system import System
from portrait_jax.training.checkpoints import compare
from portrait_jax.training.params import ASSETS
from portrait_jax.training.state import flatten, matches, unflatten
from portrait_jax.typing import Params

EMBEDDED: Mapping[str, Path] = MappingProxyType({"follow_your_emoji": ASSETS / "follow_your_emoji_demo.safetensors"})
"""System name → the demo checkpoint that comes with the package."""


def load_system_params(
    system: System,
    checkpoint: str | os.PathLike | None = None,
    bases: Sequence[str | os.PathLike] = (),
    mesh: Mesh | None = None,
) -> Params:
    """Reads parameters and checks that they are this system's.

    Args:
        checkpoint: a `.safetensors` file, published or of this project, or a training's workdir; None takes the checkpoint in the
            package.
        bases: further ones, of this project or published (`interchange.published.read_base`), whose parameters stand in
            for the checkpoint's: see `on_base`. Later ones win.
        mesh: where the system will sample: leaves go there as they are read (`read_base`), but for a workdir's.

    Raises:
        CheckpointError: if there is none, or it holds other parameters (listed, at most ten).
        ShapeError: if the parameters have other shapes, as those of another size have.
    """
    if checkpoint is None and system.name not in EMBEDDED:
        raise CheckpointError(
            f"no checkpoint of {system.name} comes with the package (it has: {listed(EMBEDDED)}); name one by --checkpoint"
        )
    source = Path(checkpoint) if checkpoint is not None else EMBEDDED[system.name]
    expected = jax.eval_shape(system.init, jax.random.key(0))
    params: Params = read_base(source, expected, mesh)
    for base in bases:
        params = on_base(params, read_base(base, expected, mesh), expected, getattr(system, "adapter", ()), str(base))
    try:
        compare(params, expected, " on ".join([str(source), *map(str, bases)]))
    except (CheckpointError, ShapeError) as error:
        if checkpoint is not None:
            raise
        raise CheckpointError(
            f"no checkpoint was named, and the one in the package is the demo's, which this config does not fit; name one by "
            f"--checkpoint: an import of published weights (docs/convert.md) or a training's workdir ({error})"
        ) from error
    return params


def pose_control(bases: Sequence[str | os.PathLike]) -> str:
    """The kind of pose control (of `anyexpress_settings.CONTROLS`) that the bases hold, or "none".

    Raises:
        ConfigError: if they hold two kinds.
    """
    found = {CONTROL_NETWORKS[name] for base in bases for name in subnets_of(base) if name in CONTROL_NETWORKS}
    if len(found) > 1:
        raise ConfigError(f"the bases hold two kinds of pose control ({listed(sorted(found))}); leave one out")
    return found.pop() if found else "none"


def on_base(params: Params, base: Params, expected: Params, adapter: Sequence[str], name: str = "the base") -> Params:
    """Puts an adapter on another base.

    Args:
        params: what is at hand: an adapter alone, or a whole system.
        base: what takes the place of the same leaves, except those of the adapter that are at hand. Sub-networks that the system
            does not have are passed over.
        expected: the system's leaves.
        adapter: patterns (as in `Stage.trainable`) of the adapter's leaves.
        name: of the base, in messages.

    Raises:
        CheckpointError: if the base is an adapter alone, of which nothing would be used.
    """
    have, wanted = flatten(params), flatten(expected)
    own = {name: leaf for name, leaf in have.items() if matches(name, adapter)}
    known = {subnet: tree for subnet, tree in base.items() if subnet in expected}
    given = flatten(known)
    if given and own.keys() >= given.keys():
        raise CheckpointError(
            f"{name} is an adapter, not a base, and another one is there already; give it as --checkpoint"
        )
    kept = {name: leaf for name, leaf in given.items() if name in wanted or not matches(name, adapter)}
    return unflatten(have | kept | own)
