"""Protects starts without compiling: what is compiled ahead is what a run asks for, and no entry of the folder can end a run."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import flagsaver
from jax.experimental.compilation_cache import compilation_cache
from ml_collections import ConfigDict

from data import synthetic
from data.pipeline import make_loader
from launch import executables
from launch.compiling import command
from launch.compiling.machines import machine
from portrait_jax import systems
from portrait_jax.animation import Animator
from portrait_jax.animation.signals import Signals
from portrait_jax.errors import ConfigError, InputFileError
from portrait_jax.sharding.mesh import make_mesh
from portrait_jax.training.loop import train
from portrait_jax.training.task import LoopOptions
from tests import tiny, tiny_prior

SETTINGS = (
    "jax_enable_compilation_cache", "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes", "jax_persistent_cache_enable_xla_caches", "jax_raise_persistent_cache_errors",
)  # fmt: skip
MESH = {"data": 2, "fsdp": 4}

Keep = Callable[[Path], Path]


@pytest.fixture
def keep(monkeypatch) -> Iterator[Keep]:
    """Starts as with the flag in a new process; every program is kept, however quickly it compiles."""
    monkeypatch.setattr(executables, "MIN_SECONDS", 0.0)
    before = {name: getattr(jax.config, name) for name in SETTINGS}

    def start(folder: Path) -> Path:
        jax.clear_caches()
        saved = flagsaver.flagsaver(compilation_cache=str(folder))
        saved.__enter__()
        entered.append(saved)
        kept = executables.keep()
        assert kept is not None
        return kept

    entered: list = []
    if not executables.flags.FLAGS.is_parsed():
        executables.flags.FLAGS.mark_as_parsed()
    yield start
    for saved in reversed(entered):
        saved.__exit__(None, None, None)
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def entries(folder: Path, program: str) -> list[Path]:
    return sorted(folder.glob(f"jit_{program}-*-cache"))


def run(config: ConfigDict, workdir: Path) -> None:
    """Two steps, as `launch.train` does them; entry points are not imported, since each defines `--config`."""
    task, options = systems.build(config), LoopOptions.from_config(config.train)
    stage = task.stages[config.stage]
    loader = make_loader(
        config.data, global_batch=stage.batch_size, frames=stage.frames, seed=options.seed, split="train"
    )
    with loader:
        train(task, config.stage, loader, workdir, options=options, mesh=make_mesh(**config.mesh), quiet=True)


@pytest.mark.slow
def test_a_training_reads_the_step_that_was_compiled_ahead_in_a_folder_that_was_moved(keep, tmp_path):
    """Had it compiled a step of its own, that would lie in the folder too."""
    config = tiny_prior.get_config()
    config.mesh.update(MESH)
    config.train.steps = 2  # A schedule's length is a part of the program.
    folder = keep(tmp_path / "made")
    (found,) = command.found(command.Request(config, machine("cpu:8"), effort=True))
    assert found["cache"] == "kept"
    (step,) = entries(folder, "step")
    folder = keep(folder.rename(tmp_path / "moved"))
    run(config, tmp_path / "run")
    assert [path.name for path in entries(folder, "step")] == [step.name]
    assert executables.counts["read"] >= 1
    (again,) = command.found(command.Request(config, machine("cpu:8"), effort=True))
    assert again["cache"] == "was there already"


@pytest.mark.slow
def test_an_animation_reads_the_sampler_that_was_compiled_ahead(keep, tmp_path):
    config = tiny.get_config()
    folder = keep(tmp_path)
    request = command.Request(config, machine("cpu:1"), ["data=1"], "sample", effort=True)
    (found,) = command.found(request)
    assert found["cache"] == "kept"
    keep(folder)
    system = tiny.make_system()
    clip = synthetic.render_clip(synthetic.sample_identity(2), synthetic.sample_performance(3, 11), tiny.SIZE)
    signals = Signals(lambda frames: {"control": np.zeros((len(frames), tiny.SIZE, tiny.SIZE, 3), np.uint8)})
    made = [frames for frames, _ in Animator(system, tiny.make_params(system)).frames(clip["frames"][0], signals, 11)]
    assert sum(map(len, made)) == 11
    assert len(entries(folder, "run")) == 1 and executables.counts["read"] >= 1


def ask() -> float:
    """A program that is compiled or read, and what it computes: 24."""
    return float(jax.jit(lambda x: (x @ x).sum() * 3)(np.full((2, 2), 1.0, np.float32)))


def test_an_entry_that_was_cut_is_removed_with_a_warning_and_made_anew(keep, tmp_path):
    folder = keep(tmp_path)
    assert ask() == 24
    (entry,) = entries(folder, "_lambda")
    whole = entry.read_bytes()
    entry.write_bytes(whole[:-7])
    with pytest.warns(UserWarning, match="is damaged and was removed"):
        keep(folder)
    assert not entry.exists()
    assert ask() == 24 and executables.intact(entry)
    entry.write_bytes(whole[:50] + bytes([whole[50] ^ 1]) + whole[51:])
    assert not executables.intact(entry)


@pytest.mark.parametrize("content", [b"", b"no program", zlib.compress(b"\0\0\0\1 no program either")])
def test_what_is_no_program_is_compiled_with_a_warning(keep, tmp_path, content):
    """As it may come to be while a run is starting, or be put there."""
    folder = keep(tmp_path)
    assert ask() == 24
    (entry,) = entries(folder, "_lambda")
    entry.write_bytes(content)
    jax.clear_caches()
    with pytest.warns(UserWarning, match="Error reading persistent compilation cache"):
        assert ask() == 24


def test_files_that_are_no_entries_stay(keep, tmp_path):
    for name in ("notes.txt", "my-cache", "jit_step-0123-cache"):
        (tmp_path / name).write_bytes(b"mine")
    keep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= {"notes.txt", "my-cache", "jit_step-0123-cache"}


def test_entries_of_another_compression_are_left_to_jax(tmp_path):
    entry = tmp_path / "jit_f"
    entry.write_bytes(executables.ZSTD + b"...")
    assert executables.intact(entry)
    assert executables.intact(tmp_path / "gone")


def test_a_folder_that_may_only_be_read_is_read_without_a_word(keep, tmp_path, monkeypatch, recwarn):
    folder = keep(tmp_path)
    ask()
    monkeypatch.setattr(executables.os, "access", lambda *_: False)
    keep(folder)
    assert ask() == 24 and executables.counts["read"] >= 1
    jax.jit(lambda x: x + 5)(jnp.zeros(3))
    assert executables.counts["written"] == 0 and not [w for w in recwarn if "cache" in str(w.message)]


def test_a_folder_to_which_everybody_may_write_is_refused(tmp_path):
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    with pytest.raises(InputFileError, match="everybody may write to it, and what is in it is run"):
        executables.checked(str(open_to_all))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputFileError, match="is a file; give a folder"):
        executables.checked(str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="a bucket is mounted"):
        executables.checked("gs://bucket/programs")
    assert executables.checked(str(tmp_path / "a" / "b")).is_dir()


def test_a_sweep_keeps_nothing(root):
    config, topology = f"--config={root / 'tests' / 'tiny_prior.py'}", "--topology=cpu:1"
    command_line = [sys.executable, "-m", "launch.compile", config, topology, "--sweep", "--compilation_cache=x"]
    done = subprocess.run(command_line, cwd=root, capture_output=True, text=True)
    assert done.returncode == 2 and "leave out --sweep" in done.stderr, done.stderr
    assert not (root / "x").exists()


@pytest.mark.slow
def test_one_process_compiles_and_the_next_trains(root, tmp_path):
    """The commands of docs/scale.md."""
    config = [f"--config={root / 'tests' / 'tiny_prior.py'}", f"--compilation_cache={tmp_path / 'programs'}"]
    changes = [*(f"--config.mesh.{axis}={size}" for axis, size in MESH.items()), "--config.train.steps=2"]

    def call(*command_line: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", *command_line, *config, *changes]
        return subprocess.run(command, cwd=root, env=dict(os.environ), capture_output=True, text=True)

    made = call("launch.compile", "--topology=cpu:8")
    assert made.returncode == 0 and "compilation cache: kept" in made.stdout, made.stderr
    before = entries(tmp_path / "programs", "step")
    for number in range(2):
        ran = call("launch.train", f"--workdir={tmp_path / str(number)}")
        assert ran.returncode == 0, ran.stderr
        assert "0 compiled programs read" not in ran.stderr and "compiled programs read" in ran.stderr
    assert len(before) == 1 and entries(tmp_path / "programs", "step") == before
