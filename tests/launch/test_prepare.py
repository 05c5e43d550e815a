"""Protects: `launch.prepare` from the command line, with every kind of data set that its config file has."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from configs import prepare as config_file
from data.motion import write_motion
from portrait_jax.training.params import load_params


@pytest.mark.parametrize(("name", "fps"), [("synthetic", "25"), ("poses", "4")])
def test_the_command_writes_a_data_set_and_says_what_it_holds(root, tmp_path, name, fps):
    settings = ["--config.train=2", "--config.test=1", "--config.frames=2", "--config.size=32", "--config.processes=1"]
    config = f"--config={root / 'configs' / 'prepare.py'}:{name}"
    command = [sys.executable, "-m", "launch.prepare", config, *settings, f"--output={tmp_path / 'set'}"]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert "train: 2 clips of 2 people, 4 frames" in run.stdout and "ready:" in run.stdout
    assert "preparing: 3 sources" in run.stderr and "preparing: done" in run.stderr, "a log shows that it moves"
    splits = json.loads((tmp_path / "set" / "statistics.json").read_text())["splits"]
    assert splits["test"]["clips"] == 1 and splits["train"]["fps"] == {fps: 2}


def test_motion_latents_are_measured(root, tmp_path):
    write_motion(tmp_path / "latents" / "a.npz", np.arange(12.0, dtype=np.float32).reshape(6, 2))
    config = f"--config={root / 'configs' / 'prepare.py'}:motion"
    command = [sys.executable, "-m", "launch.prepare", config, f"--output={tmp_path / 'out'}"]
    run = subprocess.run([*command, f"--input={tmp_path / 'latents'}"], cwd=root, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "1 sequences, 6 frames of 2 channels" in run.stdout
    params, _ = load_params(tmp_path / "out" / "statistics.safetensors")
    np.testing.assert_allclose(params["motion_statistics"]["mean"], [5, 6])
    failed = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert failed.returncode == 2 and "give --input FOLDER" in failed.stderr


def test_the_help_and_the_first_message_know_every_kind(root):
    command = [sys.executable, "-m", "launch.prepare"]
    helped = subprocess.run([*command, "--help"], cwd=root, capture_output=True, text=True, timeout=300)
    (option,) = [line for line in helped.stdout.splitlines() if line.startswith("  --config:")]
    asked = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    assert (helped.returncode, asked.returncode) == (0, 2)
    for name in config_file.CONFIGS:
        assert f":{name}" in option and f":{name}" in asked.stderr
        assert f"prepare.py:{name} " in helped.stdout
