"""`python -m launch.train` as a user meets it, and what it does with mistakes and signals."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from portrait_jax.training.params import load_params

TINY_CONFIG = """
from ml_collections import ConfigDict


def get_config(stage="tiny"):
    if stage not in ("tiny", "later"):
        raise ValueError(f"no stage {stage!r}, only 'tiny' and 'later'")
    return ConfigDict({
        "task": "autoencoder", "stage": stage, "compute_dtype": "auto",
        "model": {"image_size": 16, "autoencoder": {
            "block_out_channels": (8, 8), "layers_per_block": 1, "latent_channels": 4, "norm_groups": 4,
            "patch_size": 2, "mid_attention": False, "scaling_factor": 1.0}},
        "loss": {"edges": 1.0, "kl": 1e-4},
        "train": {"trainable": ("autoencoder/.*",), "steps": 3, "batch_size": 4, "lr": 1e-3, "ema_decay": 0.9,
                  "schedule": "constant", "accumulate": 1, "checkpoint_every": 2, "log_every": 1, "sample_every": 3,
                  "init_from": {"*": "{workdir}/tiny"} if stage == "later" else {}},
        "data": {"kind": "images", "path": "", "size": 32, "clip_frames": 2},
        "mesh": {"data": 1, "fsdp": 1, "tensor": 1, "sequence": 1},
    })
"""

MISTAKES = {
    "--config={folder}/tiny.py:later": "entry '*': there is no checkpoint {folder}/runs/tiny; give a training's workdir or a "
    ".safetensors file, or train the stage before first",
    "--workdir={folder}/tiny.py": "--workdir {folder}/tiny.py: {folder}/tiny.py is a file; give a folder",
    "--workdir=": "--workdir is missing",
    "--config.train.stepz=3": "the config has no key 'stepz'; did you mean 'steps'?",
    "--config.trian.steps=3": "the config has no key 'trian'; did you mean 'train'?",
    "--config.train.steps=many": "--config.train.steps=many",
    "--workdri=x": "Did you mean --workdir?",
    "--config.mesh.data=999": "needs 999 devices",
    "--config.train.trainable=('denoiser/.*',)": "matches no parameter",
    "--config.train.schedule=cosin": "did you mean 'cosine'",
    "--config.train.accumulate=3": "multiple of 3",
    "--config.data.path=nowhere": "nowhere holds no finished data set",
    "--config.data.kind=clips": "images",
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
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
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


def test_each_mistake_has_its_message_and_status_2_and_leaves_nothing(root, tiny, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    mistakes = {
        argument.replace("{folder}", str(tmp_path)): message.replace("{folder}", str(tmp_path))
        for argument, message in MISTAKES.items()
    }
    done = call(root, "-c", PROGRAM.format(arguments=list(mistakes), config=str(tiny), workdir=str(tmp_path / "runs")))
    answers = done.stderr.split("status 2")
    assert len(answers) == len(mistakes) + 1, done.stderr
    for (argument, message), answer in zip(mistakes.items(), answers, strict=False):
        assert "error: " in answer and message in answer, (argument, answer)
    assert "Traceback" not in done.stderr
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


INTERRUPTED = """
import os, signal, sys, time
from launch import cli, train


def starting(*_, **__):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)


train.make_loader = starting
sys.argv = ["train", "--config", {config!r}, "--workdir", {workdir!r}]
cli.run(train.main)
"""


def test_ctrl_c_while_a_run_starts_ends_it_even_where_python_could_not_and_leaves_nothing(root, tiny, tmp_path):
    done = call(root, "-c", INTERRUPTED.format(config=str(tiny), workdir=str(tmp_path / "runs")))
    # By the signal itself: a handler in Python would wait for the end of a compilation.
    assert done.returncode == -signal.SIGINT, done.stderr
    assert not (tmp_path / "runs").exists()
