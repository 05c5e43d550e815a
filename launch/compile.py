"""Compiles a config's training step or sampler for a machine that need not be there, and says whether it fits.

    python -m launch.compile --config configs/hallo3.py:stage2 --topology v5p:4x4x4 --mesh data=1,fsdp=64
    python -m launch.compile --config configs/xnemo.py:stage2 --topology v5e:4x4 --sweep --output fits.json
    python -m launch.compile --config configs/xnemo.py:released --program sample --topology v6e:2x2

From shapes alone: no weights, no data, no accelerator, but for a TPU its compiler (python -m pip install libtpu). Status 1 if
the program does not fit the chips' memory. `--sweep` tries meshes and remat policies. What is reported: docs/scale.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from launch import cli
from launch.benchmarks.command import checked_output
from launch.compiling import report, sweeps
from launch.compiling.machines import Machine, machine
from launch.compiling.programs import program
from portrait_jax.errors import ConfigError, nearest
from portrait_jax.sharding.mesh import AXES, make_mesh
from portrait_jax.target import compiling_for

CONFIG = config_flags.DEFINE_config_file("config", None, "Config file and stage: configs/NAME.py:STAGE.")
TOPOLOGY = flags.DEFINE_string("topology", None, "Slice: v4, v5e, v5p or v6e and its shape, such as v5e:4x4; or cpu:8.")
MESH = flags.DEFINE_list("mesh", [], "Mesh, such as data=2,fsdp=8; default the config's.")
PROGRAM = flags.DEFINE_string("program", "train", "train (one step) or sample.")
CLIPS = flags.DEFINE_integer("clips", 1, "Portraits that are animated together (--program=sample).", lower_bound=1)
SWEEP = flags.DEFINE_bool("sweep", False, "Try meshes and remat policies, and print those that fit, best first.")
EFFORT = flags.DEFINE_bool("effort", False, "Compile as a run would, not quickly. Memory is the same, time is not.")
OUTPUT = flags.DEFINE_string("output", None, "JSON file for everything that was found.")


def main() -> None:
    """Compiles and reports; exits with status 1 if nothing fits."""
    config, output = CONFIG.value, None if OUTPUT.value is None else checked_output(Path(OUTPUT.value))
    if config is None or TOPOLOGY.value is None:
        raise ConfigError(
            "--config and --topology are needed, e.g. --config configs/hallo3.py:stage1 --topology v5p:4x4x4"
        )
    target = machine(TOPOLOGY.value)
    with compiling_for(target.chip.platform):
        if SWEEP.value:
            made = sweeps.run(config, target, lambda changed, sizes: one(changed, target, sizes))
        else:
            made = [one(config, target, mesh_sizes(config, MESH.value))]
    for each in made:
        print(*report.lines(each), sep="\n")
    if output is not None:
        report.write(output, made[0] if len(made) == 1 else {"schema": report.SCHEMA, "tried": made})
    if not any(each["fits"] for each in made):
        sys.exit(1)


def one(config: ConfigDict, target: Machine, sizes: dict[str, int]) -> dict:
    """Compiles once; see `report.document`."""
    mesh = make_mesh(**sizes, devices=target.devices)
    made = program(PROGRAM.value, config, mesh, CLIPS.value)
    return report.document(
        report.compiled(made, target, quick=not EFFORT.value),
        config=f"{config.task}:{config.stage}",
        program=PROGRAM.value,
        topology=target.topology,
        chip=target.chip.name,
        mesh=dict(mesh.shape),
        batch=made.examples,
        remat=sweeps.policy_of(config),
    )


def mesh_sizes(config: ConfigDict, given: list[str]) -> dict[str, int]:
    """The config's mesh, or what `--mesh` says: axes that it does not name have one device, unless none is −1.

    Raises:
        ConfigError: for an axis that does not exist, or a size that is no number.
    """
    if not given:
        return {axis: int(size) for axis, size in config.mesh.items()}
    sizes = dict.fromkeys(AXES, 1)
    for part in given:
        axis, _, size = part.partition("=")
        if axis not in AXES:
            raise ConfigError(f"--mesh has no axis '{axis}'{nearest(axis, AXES)}")
        if not size.lstrip("-").isdecimal():
            raise ConfigError(f"--mesh {axis} needs a number of devices, not '{size}'")
        sizes[axis] = int(size)
    return sizes


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    cli.run(main, __doc__)
