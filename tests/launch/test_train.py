"""`python -m launch.train` as a user meets it, and what every entry point does with mistakes."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from launch import cli
from portrait_jax.errors import NoFaceError
from portrait_jax.training.params import load_params

TINY_CONFIG = """
from ml_collections import ConfigDict


def get_config(stage="tiny"):
    if stage != "tiny":
        raise ValueError(f"no stage {stage!r}, only 'tiny'")
    return ConfigDict({
        "task": "autoencoder", "stage": stage, "compute_dtype": "auto",
        "model": {"image_size": 16, "autoencoder": {
            "block_out_channels": (8, 8), "layers_per_block": 1, "latent_channels": 4, "norm_groups": 4,
            "patch_size": 2, "mid_attention": False, "scaling_factor": 1.0}},
        "loss": {"edges": 1.0, "kl": 1e-4},
        "train": {"trainable": ("autoencoder/.*",), "steps": 3, "batch_size": 4, "lr": 1e-3, "ema_decay": 0.9,
                  "checkpoint_every": 2, "log_every": 1, "sample_every": 3},
        "data": {"kind": "images", "path": "", "size": 32, "clip_frames": 2},
        "mesh": {"data": 1, "fsdp": 1, "tensor": 1, "sequence": 1},
    })
"""

MISTAKES = {
    "--config.train.stepz=3": "the config has no key 'stepz'; did you mean 'steps'?",
    "--config.trian.steps=3": "the config has no key 'trian'; did you mean 'train'?",
    "--config.train.steps=many": "--config.train.steps=many",
    "--workdri=x": "Did you mean --workdir?",
    "--config.mesh.data=999": "needs 999 devices",
    "--config.train.trainable=('denoiser/.*',)": "matches no parameter",
    "stray": "unexpected argument 'stray'",
}

PROGRAM = """
import sys
from absl.testing import flagsaver
from launch import cli, train
for argument in {arguments!r}:
    sys.argv = ["train", "--config", {config!r}, "--workdir", {workdir!r}, argument]
    with flagsaver.flagsaver():
        print("status", cli.status(train.main, sys.argv), file=sys.stderr, flush=True)
"""


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text(TINY_CONFIG)
    return path


def call(root, *command):
    environment = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.run([sys.executable, *command], cwd=root, env=environment, capture_output=True, text=True)


def test_training_resumes_and_exports_from_the_command_line(root, tiny, tmp_path):
    command = ["-m", "launch.train", f"--config={tiny}:tiny", f"--workdir={tmp_path / 'runs'}"]
    first = call(root, *command)
    assert first.returncode == 0, first.stderr
    run = tmp_path / "runs" / "tiny"
    assert [path.name for path in (run / "samples").iterdir()] == ["reconstruction_0000003.png"]
    assert list((run / "events").iterdir())
    again = call(root, *command, "--steps=4", f"--export={tmp_path / 'x.safetensors'}")
    assert again.returncode == 0 and "exported tiny at step 3" in again.stdout, again.stderr
    params, info = load_params(tmp_path / "x.safetensors")
    assert info["config"]["train"]["steps"] == 3 and np.isfinite(params["autoencoder"]["quant_conv"]["bias"]).all()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]


def test_each_mistake_has_its_message_and_status_2(root, tiny, tmp_path):
    done = call(root, "-c", PROGRAM.format(arguments=list(MISTAKES), config=str(tiny), workdir=str(tmp_path / "runs")))
    answers = done.stderr.split("status 2")
    assert len(answers) == len(MISTAKES) + 1, done.stderr
    for argument, answer in zip(MISTAKES, answers, strict=False):
        assert "error: " in answer and MISTAKES[argument] in answer, (argument, answer)
    assert "Traceback" not in done.stderr


def test_errors_and_interrupts_become_statuses(capsys):
    def mistake():
        raise NoFaceError("no face in a.png")

    def interrupt(arguments):
        assert arguments == ["program"]
        raise KeyboardInterrupt

    def bug():
        raise ZeroDivisionError

    assert cli.status(mistake, ["program"]) == 2
    assert capsys.readouterr().err == "error: no face in a.png\n"
    assert cli.status(interrupt, ["program"]) == 130
    assert cli.status(lambda: None, ["program"]) == 0
    with pytest.raises(ZeroDivisionError):
        cli.status(bug, ["program"])


def test_help_prints_the_docstring_and_no_traceback(capsys):
    assert cli.status(call, ["program", "--help"], "Does a thing.") == 0
    assert capsys.readouterr().out.startswith("Does a thing.\n")


def test_a_config_that_fails_shows_its_last_line_only():
    message = "flag --config=x.py:no: Error whilst parsing config file:\n\nTraceback (most recent call last):\n  …\n"
    tidied = cli.tidy(message + "ValueError: no stage 'no', only 'tiny'\n")
    assert tidied == "flag --config=x.py:no: ValueError: no stage 'no', only 'tiny'"
