"""Which meshes and remat policies a program fits with, the best first.

Best is what would take least time if nothing overlapped: matrix products at the chip's peak, and bytes of collectives at the
speed of its links. A model, to order what fits; nothing here is measured.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

from ml_collections import ConfigDict

from launch.compiling.machines import Machine
from portrait_jax.errors import ConfigError, DeviceError
from portrait_jax.nn.layers import POLICIES
from portrait_jax.progress import Bars

LINKS = 1e11
"""Bytes a second that a chip's links move, about: only to weigh collectives against products."""
REMAT = ("denoiser.gradient_checkpointing", "denoiser.remat")
"""Keys of `config.model` that say what is computed again in the backward pass."""
TENSOR = (1, 2, 4, 8)
SEQUENCE = (1, 2, 4)


def run(
    config: ConfigDict, machine: Machine, compile_one: Callable[[ConfigDict, dict[str, int]], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Compiles every combination that divides the devices and the batch; those that fit first, the best of them first."""
    made: list[dict[str, Any]] = []
    tried = [(changed, sizes) for changed in policies(config) for sizes in meshes(len(machine.devices))]
    with Bars("meshes") as bars:
        for changed, sizes in bars.track(tried, machine.topology, len(tried)):
            try:
                made.append(compile_one(changed, sizes))
            except (ConfigError, DeviceError) as error:
                bars.note(f"{sizes}: {error}")
    if not made:
        raise ConfigError(f"no mesh of {len(machine.devices)} devices divides the batch; change train.batch_size")
    return sorted(made, key=lambda each: (not each["fits"], seconds(each)))


def seconds(made: dict[str, Any]) -> float:
    """The model's time of a call."""
    moved = sum(total["bytes"] for total in made.get("collectives", {}).values())
    return made.get("ideal_seconds", float("inf")) + moved / LINKS


def meshes(count: int) -> Iterator[dict[str, int]]:
    """All meshes of `count` devices, those first that split parameters least."""
    for tensor in TENSOR:
        for sequence in SEQUENCE:
            if count % (tensor * sequence):
                continue
            rest = count // (tensor * sequence)
            for fsdp in (size for size in range(1, rest + 1) if rest % size == 0):
                yield {"data": rest // fsdp, "fsdp": fsdp, "tensor": tensor, "sequence": sequence}


def policies(config: ConfigDict) -> list[ConfigDict]:
    """The config with each setting that its remat switch may have."""
    found = policy_key(config)
    if found is None:
        return [config]
    section, key = found
    made = []
    for value in (False, True) if isinstance(config.model[section][key], bool) else ("none", *POLICIES):
        made.append(copy.deepcopy(config))
        made[-1].model[section][key] = value
    return made


def policy_of(config: ConfigDict) -> Any:
    """What the config says of remat."""
    found = policy_key(config)
    return None if found is None else config.model[found[0]][found[1]]


def policy_key(config: ConfigDict) -> tuple[str, str] | None:
    """Section and key of `config.model` that say it."""
    for path in REMAT:
        section, key = path.split(".")
        if section in config.get("model", {}) and key in config.model[section]:
            return section, key
    return None
