"""HunyuanPortrait on real parts, in small: prepared shards, stylised copies, motion encoders, a system, an animation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest

from data.prepare_synthetic import SyntheticConfig, prepare_synthetic
from data.views import RecordSource
from portrait_jax.media.image import read_image
from portrait_jax.media.video import VideoWriter, probe, read_frames
from portrait_jax.training.journal import read_lines
from portrait_jax.training.params import load_params
from portrait_jax.training.state import flatten
from tests import tiny_hunyuan
from tests.animation import scene

pytestmark = pytest.mark.slow

CONFIG = """
from ml_collections import ConfigDict

from configs import hunyuan_portrait
from tests import tiny_hunyuan


def get_config(name):
    if name == "demo_motion":
        config = hunyuan_portrait.get_config(name)
        config.model.face_size = tiny_hunyuan.FACE
        config.model.expression.update({"layers": (1, 1), "channels": (4, 4), "out": 8})
        config.model.head_pose.update({"layers": (1, 1), "channels": (4, 4), "norm_groups": 2})
        config.model.head.update({"pictures": {"channels": (8, 8, 8), "style": 8, "group": 2}, "appearance": 8})
        config.model.head.resnet.update({"layers": (1, 1), "channels": (4, 4)})
    else:
        config = tiny_hunyuan.get_config(name)
        with config.unlocked():
            config.train.init_from = ConfigDict(dict.fromkeys(("expression", "head_pose"), "{workdir}/demo_motion"))
            config.train.allow_missing = ()
            config.sampling.framing = "face"
    config.data.update({"path": "shards", "size": 32, "frame_stride": (1, 2)})
    config.data.latent_factor, config.mesh.data = 2, 1
    config.train.update({"steps": 3, "batch_size": 2, "frames": 2, "warmup_steps": 0, "log_every": 1})
    return config
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory, root):
    """The folder of it all."""
    folder = tmp_path_factory.mktemp("whole")
    scene.fill(folder)
    (folder / "config.py").write_text(CONFIG)
    prepare_synthetic(SyntheticConfig(train=3, test=1, frames=6, size=32), folder / "shards")
    write_copies(folder)

    def call(module: str, **flags):
        # Compiling is nearly all that takes time here; what comes out need not be quick.
        environment = {**os.environ, "PYTHONPATH": str(root), "XLA_FLAGS": "--xla_backend_optimization_level=0"}
        given = [f"--{name}={value}" for name, value in flags.items()]
        run = subprocess.run(
            [sys.executable, "-m", f"launch.{module}", *given],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stderr

    call("train", config="config.py:demo_motion", workdir="runs")
    stylised = {"config.data.stylised": "copies", "config.data.stylised_share": 1.0}
    size = {"config.data.size": tiny_hunyuan.SIZE}
    call("train", config="config.py:train", workdir="runs", **stylised, **size)
    return SimpleNamespace(folder=folder, call=call)


def write_copies(folder) -> None:
    """Negatives of all clips."""
    source = RecordSource(folder / "shards", "train", 32)
    (folder / "copies").mkdir()
    for number in range(len(source)):
        view = source.view(source[number], np.random.default_rng(0))
        with VideoWriter(folder / "copies" / f"{view.clip_id}.mp4", view.fps) as writer:
            for frame in view.frames(range(view.num_frames)):
                writer.write(255 - frame)


@pytest.mark.parametrize(("stage", "metric"), [("demo_motion", "angles"), ("train", "diffusion")])
def test_every_stage_takes_its_steps(done, stage, metric):
    lines = read_lines(done.folder / "runs" / stage / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert all(np.isfinite(line[metric]) for line in lines)


def test_the_system_starts_from_the_motion_encoders_and_leaves_them(done):
    motion, system = (flatten(load_params(done.folder / "runs" / name)[0]) for name in ("demo_motion", "train"))
    kept = [name for name in motion if name.startswith(("expression", "head_pose"))]
    assert kept and all(np.array_equal(motion[name], system[name]) for name in kept)


def test_what_was_trained_animates_a_real_portrait_and_is_pasted_back(done, samples_dir, face_landmarker_path):
    short, portrait = done.folder / "short.mp4", samples_dir / "portraits" / "frontal.png"
    with VideoWriter(short, 12.5) as writer:
        for frame in islice(read_frames(samples_dir / "driving" / "clip_d6.mp4", 12.5), 16, 20):
            writer.write(frame)
    flags = {"portrait": portrait, "driving": short, "audio": "voice.wav", "output": "out.mp4", "steps": 1}
    flags |= {"config": "config.py:train", "checkpoint": "runs/train", "config.sampling.framing": "wide"}
    done.call("animate", **flags, face_landmarker=face_landmarker_path, paste_back=True)
    record, info, picture = (
        json.loads((done.folder / "out.json").read_text()),
        probe(done.folder / "out.mp4"),
        read_image(portrait),
    )
    assert (info.height, info.width) == tuple(side + side % 2 for side in picture.shape[:2])
    assert (info.frames, info.fps, info.has_audio) == (4, 12.5, True)
    assert record["paste_back"] and record["sampling"]["strategy"] == "ring"
