"""What `launch.compile` does with its flags."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from launch import meshes
from launch.compiling import estimates, report, sweeps
from launch.compiling.machines import Machine, chip_of, chips_of
from launch.compiling.programs import program
from portrait_jax.errors import ConfigError, nearest
from portrait_jax.sharding.mesh import make_mesh
from portrait_jax.target import compiling_for

ESTIMATES = {"train": estimates.estimated, "sample": estimates.sampled}
"""What `--estimate` tells of each program."""
LINES = {"estimate": report.estimate_lines, "sampling estimate": report.sampling_lines}
"""How what was found is told, where it was not compiled."""


def estimate(config: ConfigDict, topology: str, mesh: Sequence[str], kind: str = "train") -> list[dict[str, Any]]:
    """About what a training step, or a sampler, needs (`ESTIMATES`). Raises ConfigError for another program."""
    chip, devices = chip_of(topology), chips_of(topology)
    if kind not in ESTIMATES:
        raise ConfigError(f"--program '{kind}' does not exist{nearest(kind, list(ESTIMATES))}")
    with compiling_for(chip.platform):
        told = ESTIMATES[kind](config, devices, mesh_sizes(config, mesh), chip)
    return [report.document(told, config=f"{config.task}:{config.stage}", topology=topology, chip=chip.name,
                            remat=sweeps.policy_of(config))]  # fmt: skip


class Request(NamedTuple):
    """What is to be compiled, and for what.

    Attributes:
        mesh: `axis=size` each; none: the config's.
        program: "train" or "sample".
        clips: portraits that are animated together.
        effort: whether it is compiled as a run would.
    """

    config: ConfigDict
    target: Machine
    mesh: Sequence[str] = ()
    program: str = "train"
    clips: int = 1
    effort: bool = False


def found(request: Request, sweep: bool = False) -> list[dict[str, Any]]:
    """What compiling tells, see `report.document`; of a sweep for each combination, those that fit first, the best first."""
    with compiling_for(request.target.chip.platform):
        if not sweep:
            return [one(request, request.config, mesh_sizes(request.config, request.mesh))]
        return sweeps.run(request.config, request.target, lambda config, sizes: one(request, config, sizes))


def one(request: Request, config: ConfigDict, sizes: dict[str, int]) -> dict[str, Any]:
    """Compiles once."""
    mesh = make_mesh(**sizes, devices=request.target.devices)
    made = program(request.program, config, mesh, request.clips)
    return report.document(
        report.compiled(made, request.target, quick=not request.effort),
        config=f"{config.task}:{config.stage}",
        program=request.program,
        topology=request.target.topology,
        chip=request.target.chip.name,
        mesh=dict(mesh.shape),
        batch=made.examples,
        remat=sweeps.policy_of(config),
    )


def mesh_sizes(config: ConfigDict, given: Sequence[str]) -> dict[str, int]:
    """The config's mesh, or what is given (`meshes.mesh_sizes`)."""
    return meshes.mesh_sizes(given) if given else {axis: int(size) for axis, size in config.mesh.items()}


def finish(made: list[dict[str, Any]], output: Path | None) -> int:
    """Prints and writes what was found; returns the status: 1 if nothing fits."""
    for each in made:
        print(*LINES.get(each["program"], report.lines)(each), sep="\n")
    if output is not None:
        report.write(output, made[0] if len(made) == 1 else {"schema": report.SCHEMA, "tried": made})
    return 0 if any(each["fits"] for each in made) else 1
