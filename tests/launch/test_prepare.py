"""Protects: `launch.prepare` from the command line, and that its config file and the code know the same settings."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest

from configs import prepare as config_file
from data.prepare_synthetic import SyntheticConfig
from data.prepare_video import VideoConfig
from portrait_jax.errors import ConfigError


def test_the_command_writes_a_data_set_and_says_what_it_holds(root, tmp_path):
    settings = ["--config.train=2", "--config.test=1", "--config.frames=2", "--config.size=32", "--config.processes=1"]
    config = f"--config={root / 'configs' / 'prepare.py'}:synthetic"
    command = [sys.executable, "-m", "launch.prepare", config, *settings, f"--output={tmp_path / 'set'}"]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert "train: 2 clips of 2 people, 4 frames" in run.stdout and "ready:" in run.stdout
    assert json.loads((tmp_path / "set" / "statistics.json").read_text())["splits"]["test"]["clips"] == 1


@pytest.mark.parametrize(("name", "settings"), [("synthetic", SyntheticConfig), ("video", VideoConfig)])
def test_the_config_file_names_every_setting_of_the_code(name, settings):
    config = config_file.get_config(name).to_dict()
    assert config.pop("kind") == name and config.pop("processes") == 0
    assert config.keys() == {field.name for field in dataclasses.fields(settings)}
    settings(**config)


def test_an_unknown_kind_is_named():
    with pytest.raises(ConfigError, match="did you mean 'video'"):
        config_file.get_config("videos")
