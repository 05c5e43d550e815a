"""The whole way on real parts, in small: stage 1 killed and resumed, stage 2 from it, an animation from what came out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from portrait_jax.media.video import probe
from portrait_jax.training.journal import read_lines
from portrait_jax.training.params import load_params, save_params
from portrait_jax.training.state import flatten
from tests import tiny
from tests.animation import scene

pytestmark = pytest.mark.slow

STEPS, EVERY, KILLED_AT = 6, 2, 5
"""Of stage 1: steps, steps between checkpoints, and batches that the victim draws. It has saved step 2, perhaps 4."""

CONFIG = f"""
from tests import tiny


def get_config(stage="demo"):
    config = tiny.get_config(stage)
    config.data.clip_frames, config.mesh.data = 8, 1
    config.train.update(batch_size=2, checkpoint_every={EVERY}, log_every=1, sample_every=0)
    return config
"""
TRAIN = """
import json, os, signal, sys
from absl.testing import flagsaver
from launch import cli, train

killed_at, *commands = json.loads(sys.argv[1])
make_loader = train.make_loader


class Killed:
    def __init__(self, *args, **kwargs):
        self.loader = make_loader(*args, **kwargs)

    def __getattr__(self, name):
        return getattr(self.loader, name)

    def __next__(self):
        if self.loader.get_state()["next_batch"] == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return next(self.loader)


train.make_loader = Killed
for arguments in commands:
    sys.argv = ["train", *arguments]
    with flagsaver.flagsaver():
        assert cli.status(train.main, sys.argv) == 0, arguments
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory, root):
    """The folder of it all, and what the resumed run said."""
    folder = tmp_path_factory.mktemp("whole")
    scene.fill(folder)
    (folder / "config.py").write_text(CONFIG)
    autoencoder = {"autoencoder": tiny.make_params(tiny.make_system("demo_stage1"))["autoencoder"]}
    save_params(folder / "autoencoder.safetensors", autoencoder, {"config": {}})

    def call(*command):
        # Compiling is nearly all that takes time here; what comes out need not be quick.
        environment = {**os.environ, "PYTHONPATH": str(root), "XLA_FLAGS": "--xla_backend_optimization_level=0"}
        return subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)

    def train(killed_at, *commands):
        return call("-c", TRAIN, json.dumps([killed_at, *commands]))

    def arguments(stage, workdir, **train):
        settings = [f"--config.train.{name}={value}" for name, value in train.items()]
        return [f"--config={folder / 'config.py'}:{stage}", f"--workdir={workdir}", *settings]

    start = {"init_from.autoencoder": "autoencoder.safetensors"}
    victim, whole = (arguments("demo_stage1", name, steps=STEPS, frames=2, **start) for name in ("killed", "whole"))
    killed = train(KILLED_AT, victim)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    before = read_lines(folder / "killed" / "demo_stage1" / "metrics.jsonl")
    resumed = train(None, victim, whole, arguments("demo_stage2", "killed", steps=2, frames=3))
    assert resumed.returncode == 0, resumed.stderr
    flags = ["portrait=portrait.png", "portrait_landmarks=portrait.npz", "driving=driving.npz", "output=out.mp4"]
    flags += [f"config={folder / 'config.py'}", "checkpoint=killed", "steps=1", "guidance=1"]
    animated = call("-m", "launch.animate", *(f"--{flag}" for flag in flags))
    assert animated.returncode == 0, animated.stderr
    return SimpleNamespace(folder=folder, before=before, said=resumed.stderr)


def test_a_killed_stage_resumes_with_identical_losses(done):
    lines = {name: read_lines(done.folder / name / "demo_stage1" / "metrics.jsonl") for name in ("killed", "whole")}
    assert [line["step"] for line in done.before] == [1, 2, 3, 4], "it was killed on the way"
    assert "going on in" in done.said, "it did not begin anew"
    assert [line["step"] for line in lines["whole"]] == list(range(1, STEPS + 1))
    assert lines["killed"] == lines["whole"] and done.before == lines["whole"][:4]
    assert len({line["loss"] for line in lines["whole"]}) == STEPS


def test_the_second_stage_starts_from_the_first_and_trains_motion_alone(done):
    first, second = (load_params(done.folder / "killed" / name) for name in ("demo_stage1", "demo_stage2"))
    given, _ = load_params(done.folder / "autoencoder.safetensors")
    assert (first[1]["step"], second[1]["step"], second[1]["stage"]) == (STEPS, 2, "demo_stage2")
    before, after = flatten(first[0]), flatten(second[0])
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed and all("motion_modules" in name for name in changed)
    assert all(np.array_equal(after[name], leaf) for name, leaf in flatten(given).items())


def test_what_was_trained_animates(done):
    record = json.loads((done.folder / "out.json").read_text())
    assert record["checkpoint"]["path"].endswith("demo_stage2") and record["checkpoint"]["step"] == 2
    info = probe(done.folder / "out.mp4")
    assert (info.width, info.height, info.frames) == (tiny.SIZE, tiny.SIZE, scene.FRAMES)
