"""Several processes that train as one: on one machine or many, each with its own devices and its own part of every batch."""

from __future__ import annotations

import jax
from absl import flags

from portrait_jax.errors import ConfigError, DeviceError

COORDINATOR = flags.DEFINE_string(
    "coordinator",
    None,
    "ADDRESS:PORT of process 0, the same for all; 'auto' where jax finds it: TPU slices, Slurm, Open MPI, GKE.",
)
PROCESSES = flags.DEFINE_integer("processes", None, "How many processes there are, with an address.", lower_bound=1)
PROCESS = flags.DEFINE_integer("process", None, "Number of this one, from 0.", lower_bound=0)
PATIENCE = flags.DEFINE_integer(
    "patience",
    100,
    "Seconds without a sign of life after which a process counts as dead and the others end.",
    lower_bound=5,
)


def join() -> None:
    """Makes this process one of those that the flags name; does nothing without them. Before any device is touched.

    A process that dies ends the others within `--patience` seconds: jax aborts them and says why. The same command then goes on
    from the newest checkpoint, also with another number of processes.

    Raises:
        ConfigError: if an address comes without numbers, or numbers without an address.
        DeviceError: if the others do not come.
    """
    numbers = (PROCESSES.value, PROCESS.value)
    if COORDINATOR.value is None:
        if numbers != (None, None):
            raise ConfigError("--processes and --process need --coordinator=ADDRESS:PORT, the same for all processes")
        return
    address, (count, index) = COORDINATOR.value, numbers
    if address == "auto":
        told = {}
    elif count is None or index is None or index >= count:
        raise ConfigError(
            f"--coordinator={address} needs --processes=N and --process from 0 to N-1, or --coordinator=auto"
        )
    else:
        told = {"coordinator_address": address, "num_processes": count, "process_id": index}
    try:
        jax.distributed.initialize(**told, heartbeat_timeout_seconds=PATIENCE.value)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise DeviceError(
            f"the processes did not find each other ({reason}); start all of them, with one address"
        ) from error
