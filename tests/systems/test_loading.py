"""Protects: a system gets its own parameters or a message, never another system's."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from safetensors.numpy import save_file

from configs import follow_your_emoji
from portrait_jax import systems
from portrait_jax.errors import CheckpointError, ShapeError
from portrait_jax.interchange import export_checkpoint
from portrait_jax.interchange.published import identify_base
from portrait_jax.sharding import rules
from portrait_jax.sharding.mesh import make_mesh
from portrait_jax.systems.follow_your_emoji import FollowYourEmoji
from portrait_jax.systems.loading import EMBEDDED, load_system_params
from portrait_jax.training.params import load_params, save_params
from portrait_jax.training.state import flatten, matches, unflatten
from tests import tiny, tiny_anyexpress

OF_BASE = ("denoiser/(?!.*(audio_attention|motion_modules|processor|place_embedding))", "(text_encoder|autoencoder)/")
"""Leaves that a personalised model holds."""


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


def test_over_a_mesh_leaves_lie_where_the_rules_say_before_anything_samples(system, params, tmp_path, monkeypatch):
    monkeypatch.setattr(rules, "SMALL", 64)
    save_params(tmp_path / "x.safetensors", params, {"config": {}})
    mesh = make_mesh(data=1, fsdp=4, devices=jax.devices()[:4])
    found = load_system_params(system, tmp_path / "x.safetensors", mesh=mesh)
    jax.tree.map(np.testing.assert_array_equal, found, dict(params))
    wanted = flatten(rules.shardings(found, mesh))
    spread = [not leaf.sharding.is_fully_replicated for leaf in flatten(found).values()]
    assert all(leaf.sharding == wanted[name] for name, leaf in flatten(found).items()) and sum(spread) > 20


def test_a_published_base_goes_to_a_mesh_too(tmp_path, monkeypatch):
    monkeypatch.setattr(rules, "SMALL", 64)
    made = tiny_anyexpress.make_system()
    save_params(tmp_path / "whole.safetensors", tiny.make_params(made), {})
    save_params(tmp_path / "base.safetensors", tiny.make_params(made, seed=1), {})
    published = tmp_path / "toon.safetensors"
    export_checkpoint(["sd15_single_file"], tmp_path / "base.safetensors", published)
    mesh = make_mesh(data=1, fsdp=4, devices=jax.devices()[:4])
    alone, shared = (
        flatten(load_system_params(made, tmp_path / "whole.safetensors", [published], mesh=each))
        for each in (None, mesh)
    )
    assert all(np.array_equal(leaf, shared[name]) for name, leaf in alone.items())
    kernel = shared["autoencoder/decoder/conv_in/kernel"]
    assert not kernel.sharding.is_fully_replicated and len(kernel.sharding.device_set) == 4


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


def test_an_adapter_moves_between_bases_by_path_alone(tmp_path):
    """The adapter of one system on two bases: every other leaf is the base's, and nothing of a base replaces the adapter."""
    made = tiny_anyexpress.make_system()
    trained, base = flatten(tiny.make_params(made)), flatten(tiny.make_params(made, seed=1))
    adapter = {name: leaf for name, leaf in trained.items() if matches(name, made.adapter)}
    save_params(tmp_path / "adapter.safetensors", unflatten(adapter), {})
    save_params(tmp_path / "whole.safetensors", unflatten(trained), {})
    stranger = {"stranger/kernel": np.ones(2, np.float32)}
    for number, held in ((1, "adapter"), (2, "whole")):
        other = {name: leaf + number for name, leaf in base.items()}
        save_params(tmp_path / "base.safetensors", unflatten(other | stranger), {})
        found = flatten(load_system_params(made, tmp_path / f"{held}.safetensors", [tmp_path / "base.safetensors"]))
        assert found.keys() == trained.keys()
        for name, leaf in found.items():
            np.testing.assert_array_equal(leaf, adapter[name] if name in adapter else other[name])
    assert 0 < len(adapter) < len(trained) and not any("to_k_ip" in name for name in adapter)


@pytest.mark.parametrize("layout", ["sd15", "sd15_single_file"])
def test_a_personalised_model_as_published_is_a_base(layout, tmp_path):
    """A diffusers folder or a single file gives what its import gives, under an adapter that stays as it is."""
    made = tiny_anyexpress.make_system()
    trained, base = tiny.make_params(made), tiny.make_params(made, seed=1)
    save_params(tmp_path / "whole.safetensors", trained, {})
    save_params(tmp_path / "base.safetensors", base, {})
    published = tmp_path / ("toon" if layout == "sd15" else "toon.safetensors")
    export_checkpoint([layout], tmp_path / "base.safetensors", published)
    found = flatten(load_system_params(made, tmp_path / "whole.safetensors", [published]))
    trained, base = flatten(trained), flatten(base)
    swapped = {name for name, leaf in found.items() if not np.array_equal(leaf, trained[name])}
    assert found.keys() == trained.keys()
    assert {name.split("/")[0] for name in swapped} == {"denoiser", "autoencoder", "text_encoder"}
    for name, leaf in found.items():
        is_base = not matches(
            name, (*made.adapter, ".*/(processor|place_embedding)/", "(audio_encoder|image_encoder|image_prompt)/")
        )
        np.testing.assert_array_equal(leaf, (base if is_base else trained)[name], err_msg=name)
    about = identify_base(published)
    assert about["layout"] == layout
    # Files of a folder are called alike, and each has its hash.
    assert "sha256" in about if layout == "sd15_single_file" else len(set(about["files"].values())) == 3


def test_the_published_adapter_is_a_checkpoint_and_moves_between_bases(tmp_path):
    """The layout's one file under two bases, without an import; as a base of another adapter it is refused."""
    made = tiny_anyexpress.make_system()
    trained = tiny.make_params(made)
    save_params(tmp_path / "whole.safetensors", trained, {})
    adapter = tmp_path / "adapter.safetensors"
    export_checkpoint(["anyexpress_adapter_all"], tmp_path / "whole.safetensors", adapter)
    trained = flatten(trained)
    for seed in (1, 2):
        base = tiny.make_params(made, seed=seed)
        save_params(tmp_path / "base.safetensors", base, {})
        found, base = flatten(load_system_params(made, adapter, [tmp_path / "base.safetensors"])), flatten(base)
        for name, leaf in found.items():
            of = trained if matches(name, made.adapter) else base
            np.testing.assert_array_equal(leaf, of[name], err_msg=name)
    with pytest.raises(CheckpointError, match="adapter.safetensors is an adapter, not a base"):
        load_system_params(made, tmp_path / "whole.safetensors", [adapter])


def test_a_release_with_folders_of_its_own_is_read_where_its_files_lie(tmp_path):
    made = tiny_anyexpress.make_system()
    save_params(tmp_path / "whole.safetensors", tiny.make_params(made), {})
    base = tiny.make_params(made, seed=1)
    save_params(tmp_path / "base.safetensors", base, {})
    export_checkpoint(["sd15"], tmp_path / "base.safetensors", tmp_path / "outer" / "inner")
    found = load_system_params(made, tmp_path / "whole.safetensors", [tmp_path / "outer"])
    np.testing.assert_array_equal(found["denoiser"]["conv_in"]["kernel"], base["denoiser"]["conv_in"]["kernel"])


def test_what_is_no_base_is_named(tmp_path):
    made = tiny_anyexpress.make_system()
    save_params(tmp_path / "whole.safetensors", tiny.make_params(made), {})
    save_file({"lora.up": np.ones(2, np.float32)}, tmp_path / "lora.safetensors")
    for name, message in (("lora.safetensors", "of no known layout"), ("nothing", "there is no checkpoint")):
        with pytest.raises(CheckpointError, match=message):
            load_system_params(made, tmp_path / "whole.safetensors", [tmp_path / name])


def test_a_base_of_another_kind_is_refused_with_both_shapes(tmp_path):
    made = tiny_anyexpress.make_system()
    trained = tiny.make_params(made)
    save_params(tmp_path / "whole.safetensors", trained, {})
    kernel = np.ones((3, 3, 9, 8), np.float32)
    save_params(tmp_path / "inpainting.safetensors", {"denoiser": {"conv_in": {"kernel": kernel}}}, {})
    with pytest.raises(ShapeError, match=r"denoiser/conv_in/kernel: stored \(3, 3, 9, 8\)"):
        load_system_params(made, tmp_path / "whole.safetensors", [tmp_path / "inpainting.safetensors"])
