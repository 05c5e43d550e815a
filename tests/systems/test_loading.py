"""Protects: a system gets its own parameters or a message, never another system's."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import follow_your_emoji
from portrait_jax import systems
from portrait_jax.errors import CheckpointError, ShapeError
from portrait_jax.systems.follow_your_emoji import FollowYourEmoji
from portrait_jax.systems.loading import EMBEDDED, load_system_params
from portrait_jax.training.params import load_params, save_params
from tests import tiny


@pytest.fixture(scope="module")
def system():
    return tiny.make_system()


@pytest.fixture(scope="module")
def params(system):
    return tiny.make_params(system)


def test_parameters_come_back_as_they_were_saved(system, params, tmp_path):
    save_params(tmp_path / "x.safetensors", params, {"config": {}})
    found = load_system_params(system, tmp_path / "x.safetensors")
    jax.tree.map(np.testing.assert_array_equal, found, dict(params))


def test_a_checkpoint_of_another_size_is_an_error_with_both_shapes(system, params, tmp_path):
    config = tiny.get_config()
    config.model.guider.channels = (4, 8, 16)
    save_params(tmp_path / "x.safetensors", params, {"config": {}})
    with pytest.raises(ShapeError, match=r"guider/.*: stored \(3, 3, 8, 8\), model \(3, 3, 8, 16\)"):
        load_system_params(FollowYourEmoji.from_config(config), tmp_path / "x.safetensors")


def test_missing_and_unknown_parameters_are_counted_and_named(system, params, tmp_path):
    wrong = {**params, "stranger": {"kernel": np.ones(2, np.float32)}}
    del wrong["guider"]
    save_params(tmp_path / "x.safetensors", wrong, {"config": {}})
    with pytest.raises(CheckpointError, match=r"missing \(guider/.*more\); 1 unknown \(stranger/kernel\)"):
        load_system_params(system, tmp_path / "x.safetensors")


def test_a_system_without_an_embedded_checkpoint_asks_for_one(system):
    with pytest.raises(CheckpointError, match="no checkpoint of other comes with the package.*--checkpoint"):
        load_system_params(dataclasses.replace(system, name="other"))


def test_without_a_checkpoint_another_size_than_the_demos_asks_for_one(system):
    with pytest.raises(
        CheckpointError, match=r"no checkpoint was named.*the demo's.*name one by --checkpoint: an import"
    ):
        load_system_params(system)


def test_the_embedded_checkpoint_fits_the_demo_config_and_is_small():
    if not EMBEDDED["follow_your_emoji"].exists():
        pytest.skip("the demo checkpoint has not been made yet")
    system = FollowYourEmoji.from_config(follow_your_emoji.get_config("demo"))
    params = load_system_params(system)
    assert set(params) == {"autoencoder", "image_encoder", "guider", "reference", "denoiser"}
    assert EMBEDDED["follow_your_emoji"].stat().st_size <= 16e6


def test_the_embedded_checkpoint_names_the_config_that_builds_its_system():
    params, info = load_params(EMBEDDED["follow_your_emoji"])
    built = systems.build(ConfigDict(info["config"]))
    expected = jax.eval_shape(built.init, jax.random.key(0))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, expected)
    assert info["config"]["data"]["path"] == "", "a path of the machine that it was trained on"
