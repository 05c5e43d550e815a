"""Compiles a config's training step or sampler for a machine that need not be there, and says whether it fits.

    python -m launch.compile --config configs/hallo3.py:stage2 --topology v5p:4x4x4 --mesh data=1,fsdp=64
    python -m launch.compile --config configs/xnemo.py:stage2 --topology v5e:4x4 --sweep --output fits.json
    python -m launch.compile --config configs/xnemo.py:stage1 --topology v5e:4x4 --mesh fsdp=16 --estimate
    python -m launch.compile --config configs/xnemo.py:released --program sample --topology v6e:2x2

From shapes alone: no weights, no data, no accelerator, but for a TPU its compiler (python -m pip install libtpu). Status 1 if
the program does not fit the chips' memory. `--estimate` says in minutes, without compiling, about what a training step or a
sampler needs.
`--sweep` tries meshes and remat policies. `--compilation_cache` keeps the program for
runs on such a machine. What is reported: docs/scale.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

import jax
from absl import flags
from ml_collections import config_flags

from launch import cli, executables
from launch.benchmarks.command import checked_output
from launch.compiling.command import Request, estimate, finish, found
from launch.compiling.machines import machine
from portrait_jax.errors import ConfigError

flags.adopt_module_key_flags(executables)  # --help names it too.
CONFIG = config_flags.DEFINE_config_file("config", None, "Config file and stage: configs/NAME.py:STAGE.")
TOPOLOGY = flags.DEFINE_string("topology", None, "Slice: v4, v5e, v5p or v6e and its shape, such as v5e:4x4; or cpu:8.")
MESH = flags.DEFINE_list("mesh", [], "Mesh, such as data=2,fsdp=8; default the config's.")
PROGRAM = flags.DEFINE_string("program", "train", "train (one step) or sample.")
CLIPS = flags.DEFINE_integer("clips", 1, "Portraits that are animated together (--program=sample).", lower_bound=1)
SWEEP = flags.DEFINE_bool("sweep", False, "Try meshes and remat policies, and print those that fit, best first.")
ESTIMATE = flags.DEFINE_bool(
    "estimate", False, "Compile nothing: about what the program needs, from its trace; needs no libtpu."
)
EFFORT = flags.DEFINE_bool("effort", False, "Compile as a run would, not quickly; so does --compilation_cache.")
OUTPUT = flags.DEFINE_string("output", None, "JSON file for everything that was found.")


def main() -> None:
    """Compiles and reports; exits with status 1 if nothing fits."""
    output = None if OUTPUT.value is None else checked_output(Path(OUTPUT.value))
    if CONFIG.value is None or TOPOLOGY.value is None:
        raise ConfigError(
            "--config and --topology are needed, e.g. --config configs/hallo3.py:stage1 --topology v5p:4x4x4"
        )
    if ESTIMATE.value:
        if any((SWEEP.value, EFFORT.value, CLIPS.value > 1, executables.FOLDER.value)):
            raise ConfigError(
                "--estimate compiles nothing, and is of one portrait: leave out --sweep, --effort, --clips and --compilation_cache"
            )
        if status := finish(estimate(CONFIG.value, TOPOLOGY.value, MESH.value, PROGRAM.value), output):
            sys.exit(status)
        return
    if SWEEP.value and executables.FOLDER.value is not None:
        raise ConfigError(
            "--compilation_cache keeps the one program of a run; leave out --sweep, or look without keeping"
        )
    kept = executables.keep()
    # A program that was compiled with other options is another one to jax: a run would not find it.
    effort = EFFORT.value or kept is not None
    request = Request(CONFIG.value, machine(TOPOLOGY.value), MESH.value, PROGRAM.value, CLIPS.value, effort)
    if status := finish(found(request, SWEEP.value), output):
        sys.exit(status)


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    cli.run(main, __doc__)
