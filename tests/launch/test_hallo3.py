"""Hallo3's whole way in small: autoencoder, both stages, an animation of a recording, and the mouth measured with other sounds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.hallo3_demo import SHARED
from portrait_jax.autoencoders import AutoencoderKL, KLConfig
from portrait_jax.media.audio import AudioClip
from portrait_jax.media.video import probe
from portrait_jax.training.journal import read_lines
from portrait_jax.training.params import load_params, save_params
from portrait_jax.training.state import flatten
from tests.animation import scene
from tests.systems.hallo3 import small
from tests.weights import random_params

pytestmark = pytest.mark.slow

SIZE = 32
CONFIG = f"""
from tests.systems.hallo3 import small


def get_config(stage="demo"):
    config = small.get_config(stage)
    config.model.update(height={SIZE}, width={SIZE})
    config.model.denoiser.grid = (3, 4, 4)
    config.data.update(size={SIZE}, clip_frames=12)
    config.mesh.data = 1
    config.train.update(batch_size=1, steps=2, log_every=1, sample_every=2)
    return config
"""
TRAIN = """
import json, sys
from absl.testing import flagsaver
from launch import cli, train

for arguments in json.loads(sys.argv[1]):
    sys.argv = ["train", *arguments]
    with flagsaver.flagsaver():
        assert cli.status(train.main, sys.argv) == 0, arguments
"""
STAGES = ("demo_autoencoder", "demo_speech", "demo_stage1", "demo_stage2")


def image_sizes() -> dict:
    """Sizes of the image autoencoder that this one begins as."""
    sizes = small.get_config("demo_autoencoder").model.autoencoder
    return {name: sizes[name] for name in SHARED}


@pytest.fixture(scope="module")
def done(tmp_path_factory, root):
    """The folder of it all."""
    folder = tmp_path_factory.mktemp("whole")
    scene.fill(folder)
    (folder / "config.py").write_text(CONFIG)
    wave = 0.4 * np.sin(2 * np.pi * 180 * np.arange(33600) / 48000)
    scene.write_wav(folder / "speech.wav", AudioClip(np.repeat(wave[:, None], 2, axis=1).astype(np.float32), 48000))

    def call(*command):
        # Compiling is nearly all that takes time here; what comes out need not be quick.
        environment = {**os.environ, "PYTHONPATH": str(root), "XLA_FLAGS": "--xla_backend_optimization_level=0"}
        run = subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        return run

    image = KLConfig(**image_sizes(), mid_attention=False)
    params = jax.device_get(random_params(AutoencoderKL(image), jnp.zeros((1, SIZE, SIZE, 3)))["params"])
    save_params(folder / "image.safetensors", {"autoencoder": params}, {})
    call("-m", "launch.convert", "inflate", "--checkpoint=image.safetensors", "--output=runs/inflated")
    config = f"--config={folder / 'config.py'}"
    call("-c", TRAIN, json.dumps([[f"{config}:{stage}", "--workdir=runs"] for stage in STAGES]))
    shared = [config, "--checkpoint=runs/demo_stage2", "--steps=1", "--guidance=1"]
    inputs = [
        "--portrait=portrait.png",
        "--portrait_landmarks=portrait.npz",
        "--driving=speech.wav",
        "--output=out.mp4",
    ]
    call("-m", "launch.animate", *shared, *inputs)
    measured = ["--analysis=sound", "--identities=1", "--frames=8", "--output=report"]
    said = call("-m", "launch.evaluate", *shared, *measured)
    return SimpleNamespace(folder=folder, said=said.stdout)


def test_every_stage_trains_on_clips_with_sound_and_goes_on_from_the_one_before(done):
    for stage in STAGES:
        lines = read_lines(done.folder / "runs" / stage / "metrics.jsonl")
        assert [line["step"] for line in lines] == [1, 2] and all(np.isfinite(line["loss"]) for line in lines)
    heard, first, second = (flatten(load_params(done.folder / "runs" / stage)[0]) for stage in STAGES[1:])
    whole = flatten(load_params(done.folder / "runs" / STAGES[0])[0])
    assert all(np.array_equal(first[name], leaf) and np.array_equal(second[name], leaf) for name, leaf in whole.items())
    assert (done.folder / "runs" / STAGES[0] / "samples" / "reconstruction_0000002.png").exists()
    changed = {name.split("/")[0] for name in first if not np.array_equal(first[name], second[name])}
    assert changed == {"denoiser"} and {"audio_encoder", "audio_projection"} <= {name.split("/")[0] for name in second}
    # Two steps of warming up do not take the encoder far from where the speech stage left it.
    for name in (name for name in second if name.startswith("audio_encoder") and name.endswith("kernel")):
        assert np.abs(second[name] - heard[name]).max() < 0.05 * np.abs(heard[name]).max(), name
    assert not any(name.startswith("lip_reader") for name in second) and any(
        name.startswith("lip_reader") for name in heard
    )


def test_what_was_trained_speaks(done):
    record = json.loads((done.folder / "out.json").read_text())
    assert record["checkpoint"]["step"] == 2 and record["sampling"]["strategy"] == "continued"
    info = probe(done.folder / "out.mp4")
    assert (info.width, info.height, info.frames, info.fps, info.has_audio) == (SIZE, SIZE, 18, 25, True)


def test_the_mouth_is_measured_with_its_own_sound_another_and_none(done):
    found = json.loads((done.folder / "report" / "metrics.json").read_text())["metrics"]["8 frames"]
    assert found.keys() == {"own sound", "another's sound", "silence", "truth"}
    assert (done.folder / "report" / "comparison.png").exists() and "hallo3: 1 people, 8 frames each" in done.said
