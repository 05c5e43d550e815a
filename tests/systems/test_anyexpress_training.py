"""Protects: training changes the adapter and not one bit of what is frozen, and the second stage begins motion anew."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from portrait_jax.sharding.mesh import make_mesh
from portrait_jax.systems.anyexpress import AnyExpress
from portrait_jax.training.loop import initial_state, train
from portrait_jax.training.params import load_params, save_params
from portrait_jax.training.state import flatten, matches, unflatten
from portrait_jax.training.task import LoopOptions
from tests.tiny import make_params
from tests.tiny_anyexpress import get_config, make_batch

STEPS = 2


class Loader:
    """Batch n is drawn from seed n."""

    def __init__(self):
        self.position = 0

    def __next__(self):
        self.position += 1
        return {name: np.asarray(value) for name, value in make_batch(seed=self.position).items()}

    def get_state(self):
        return {"position": self.position}

    def set_state(self, state):
        self.position = state["position"]


def one_device():
    return make_mesh(devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two steps of the first stage from a base in a file; the base lacks the sound, as published ones do."""
    folder = tmp_path_factory.mktemp("runs")
    config = get_config("demo_stage1")
    base = make_params(AnyExpress.from_config(config))
    config.train.init_from = {"*": str(folder / "base.safetensors")}
    config.train.allow_missing = ("audio_projection/.*", "denoiser/.*audio_attention.*")
    config.train.trainable = (
        "audio_projection/.*",
        "denoiser/.*audio_attention.*",
        "denoiser/down_blocks_0/motion_modules.*",
    )
    config.train.update({"steps": STEPS, "frames": 3, "ema_decay": 0.0})
    stored = {n: leaf for n, leaf in flatten(base).items() if not matches(n, config.train.allow_missing)}
    save_params(folder / "base.safetensors", unflatten(stored), {})
    task = AnyExpress.from_config(config)
    options = LoopOptions(checkpoint_every=STEPS)
    train(task, "demo_stage1", Loader(), folder / "demo_stage1", options=options, mesh=one_device(), quiet=True)
    after = flatten(load_params(folder / "demo_stage1")[0])
    return SimpleNamespace(folder=folder, stored=stored, after=after, trainable=task.stages["demo_stage1"].trainable)


@pytest.mark.slow
def test_frozen_parameters_are_bit_identical_after_training(trained):
    frozen = [name for name in trained.after if not matches(name, trained.trainable)]
    assert {name.split("/")[0] for name in frozen} >= {
        "autoencoder",
        "text_encoder",
        "image_encoder",
        "image_prompt",
        "denoiser",
    }
    for name in frozen:
        assert trained.after[name].tobytes() == np.asarray(trained.stored[name]).tobytes(), name


@pytest.mark.slow
def test_everything_that_trains_has_moved(trained):
    moved = {name for name in trained.stored if matches(name, trained.trainable)}
    assert moved and all(not np.array_equal(trained.after[name], trained.stored[name]) for name in moved)
    # The last projection starts at zero.
    outputs = [leaf for name, leaf in trained.after.items() if "audio_attention/attn/to_out_0" in name]
    assert outputs and all(np.any(leaf) for leaf in outputs)


@pytest.mark.slow
def test_the_second_stage_begins_motion_anew_and_keeps_the_sound(trained):
    config = get_config("demo_stage2")
    config.train.init_from = {"*": "{workdir}/demo_stage1"}
    config.train.restore_from = str(trained.folder / "base.safetensors")
    task = AnyExpress.from_config(config)
    with jax.set_mesh(one_device()):
        state = initial_state(task, "demo_stage2", 1, one_device(), trained.folder)
    start = flatten(jax.tree.map(np.asarray, state.params))
    for name, leaf in start.items():
        source = trained.stored if "motion_modules" in name else trained.after
        assert leaf.tobytes() == np.asarray(source[name]).tobytes(), name
    changed = [
        name for name in start if "motion_modules" in name and not np.array_equal(start[name], trained.after[name])
    ]
    assert changed, "the first stage moved some of them"
