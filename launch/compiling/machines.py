"""Accelerators by topology: which devices there would be, and what each can hold and do."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import jax

from portrait_jax.errors import ConfigError, DeviceError, nearest

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """One device of a slice.

    Attributes:
        name: for people.
        memory_gib: high-bandwidth memory that a program may use. Where the compiler refuses larger programs it is the compiler's
            number, otherwise the vendor's.
        tflops: dense bfloat16 matrix products, 10¹² a second (the vendor's number).
        platform: what jax calls its kind.
    """

    name: str
    memory_gib: float
    tflops: float
    platform: str = "tpu"


CHIPS: Mapping[str, Chip] = MappingProxyType(
    {
        "v4": Chip("TPU v4", 30.75, 275.0),
        "v5e": Chip("TPU v5e", 15.75, 197.0),
        "v5p": Chip("TPU v5p", 95.0, 459.0),
        "v6e": Chip("TPU v6e", 31.25, 918.0),
        # Fake devices of this process: for tests, and to read a program without libtpu.
        "cpu": Chip("processor", 16.0, 0.1, "cpu"),
    }
)
"""Source: cloud.google.com/tpu/docs/system-architecture-tpu-vm, November 2026."""


LIBTPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    # It looks for a TPU all the same, and would say at length that there is none.
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}
"""What libtpu reads where it only compiles: no machine's metadata is asked, and other processes may compile too."""


@dataclass(frozen=True)
class Machine:
    """A slice, as `--topology` names it."""

    topology: str
    chip: Chip
    devices: Sequence[Any]


def machine(topology: str) -> Machine:
    """The slice `KIND:SHAPE`, such as `v5e:2x4` or `v5p:4x4x4`; `cpu:8` are fake devices of this process.

    Raises:
        ConfigError: for a kind that is not known, or a shape that its chips are not built in.
        DeviceError: if libtpu is not installed, or this process has fewer devices.
    """
    chip = chip_of(topology)
    shape = topology.partition(":")[2]
    devices = _local(topology, shape) if chip.platform == "cpu" else _described(topology)
    return Machine(topology, chip, devices)


def chip_of(topology: str) -> Chip:
    """What a slice is made of; raises ConfigError for a kind that is not known."""
    kind = topology.partition(":")[0]
    if kind not in CHIPS:
        raise ConfigError(f"--topology {topology}: there is no chip '{kind}'{nearest(kind, list(CHIPS))}")
    return CHIPS[kind]


def chips_of(topology: str) -> int:
    """How many chips a slice has, by its shape alone; raises ConfigError for what is no shape."""
    sides = topology.partition(":")[2].split("x")
    if not all(side.isdecimal() and int(side) for side in sides):
        raise ConfigError(f"--topology {topology}: give the slice's shape behind the chip, such as v5e:4x4")
    return math.prod(int(side) for side in sides)


def _local(topology: str, shape: str) -> Sequence[Any]:
    if not shape.isdecimal() or not int(shape):
        raise ConfigError(f"--topology {topology}: give how many devices, such as cpu:8")
    if len(jax.devices()) < int(shape):
        raise DeviceError(
            f"--topology {topology}: this process has {len(jax.devices())} devices; start it with "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={shape}"
        )
    return jax.devices()[: int(shape)]


def _described(topology: str) -> Sequence[Any]:
    """Devices that exist only for libtpu's compiler; it neither looks for a TPU nor keeps other processes from compiling."""
    from jax.experimental import topologies

    os.environ.update(LIBTPU)
    try:
        return topologies.get_topology_desc(topology, "tpu").devices
    except Exception as error:
        if "libtpu" in str(error) or isinstance(error, NotImplementedError | ModuleNotFoundError):
            raise DeviceError(
                "compiling for a TPU needs its compiler: python -m pip install libtpu (200 MB; a TPU it does not need)"
            ) from error
        raise ConfigError(f"--topology {topology} is no slice: {str(error).splitlines()[0]}") from error
