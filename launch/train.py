"""Trains one stage of a system, an autoencoder or a probe.

    python -m launch.train --config configs/follow_your_emoji.py:demo_stage1 --workdir runs/demo
    python -m launch.train --config configs/follow_your_emoji.py:demo_stage2 --workdir runs/demo

The run lives in WORKDIR/STAGE; the same command goes on where a run was stopped or killed. Any key of the config can be
set: `--config.train.steps=100`. With `--coordinator` several processes train as one (docs/scale.md). With `--export FILE`
nothing is trained: the newest parameters of WORKDIR are written to one safetensors file. More: docs/training.md.
"""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from data.pipeline import make_loader
from launch import cli, executables, hosts
from launch.writers import ImageFiles, TensorBoard
from portrait_jax import systems
from portrait_jax.errors import ConfigError
from portrait_jax.sharding.mesh import batch_share, make_mesh
from portrait_jax.training.loop import train
from portrait_jax.training.params import DTYPES, export
from portrait_jax.training.task import LoopOptions

flags.adopt_module_key_flags(hosts)  # --help names them too.
flags.adopt_module_key_flags(executables)
CONFIG = config_flags.DEFINE_config_file("config", None, "Config file and stage: configs/NAME.py:STAGE.")
WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run; the stage is a sub-directory of it.")
STEPS = flags.DEFINE_integer("steps", None, "Shorthand for --config.train.steps.", lower_bound=1)
EXPORT = flags.DEFINE_string("export", None, "Train nothing; write WORKDIR's newest parameters to this file.")
EXPORT_DTYPE = flags.DEFINE_enum("export_dtype", "float32", list(DTYPES), "Precision of the export.")
EXPORT_SUBNETS = flags.DEFINE_list("export_subnets", [], "Sub-networks to export; default all.")


def main() -> None:
    """Trains, or exports with `--export`."""
    if not WORKDIR.value:
        raise ConfigError("--workdir is missing: the directory where the run is kept")
    if EXPORT.value:
        folder = Path(WORKDIR.value)
        info = export(folder, Path(EXPORT.value), dtype=EXPORT_DTYPE.value, subnets=EXPORT_SUBNETS.value)
        print(f"exported {info['stage']} at step {info['step']} ({info['weights']} weights) to {EXPORT.value}")
        return
    config = CONFIG.value
    if config is None:
        raise ConfigError("--config is missing, e.g. --config configs/follow_your_emoji.py:demo_stage1")
    if STEPS.value:
        config.train.steps = STEPS.value
    folder = cli.output_folder("workdir", WORKDIR.value)
    hosts.join()
    executables.keep()
    with ending_at_once():
        run(config, folder)


def run(config: ConfigDict, folder: Path) -> None:
    """Trains the config's stage in a directory of its own in `folder`."""
    workdir = cli.output_folder("workdir", folder / config.stage)
    task = systems.build(config)
    stage = task.stages[config.stage]
    options = LoopOptions.from_config(config.train)
    mesh = make_mesh(**config.mesh)
    share = batch_share(mesh)
    loader = make_loader(
        config.data,
        global_batch=stage.batch_size,
        frames=stage.frames,
        seed=options.seed,
        split="train",
        needs=getattr(task, "batch_keys", ()),
        process_index=share.number,
        process_count=share.parts,
    )
    try:
        train(
            task,
            config.stage,
            loader,
            workdir,
            options=options,
            config=json.loads(config.to_json_best_effort()),
            mesh=mesh,
            writers=lambda start: [TensorBoard(workdir / "events", start), ImageFiles(workdir / "samples")],
            root=folder,
        )
    finally:
        loader.close()
    if jax.process_index() == 0:
        print(f"trained {task.name}:{config.stage} to step {stage.steps}; the run is in {workdir}")
        executables.tell()


@contextlib.contextmanager
def ending_at_once() -> Iterator[None]:
    """Lets Ctrl-C end the program even inside a compilation, where Python would wait minutes for its end.

    While a run starts nothing is written, so nothing is left; `train` takes over once there is something to save.
    """
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


if __name__ == "__main__":
    cli.run(main, __doc__, interrupted="the same command goes on from the newest checkpoint")
