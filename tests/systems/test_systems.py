"""Protects: names of tasks in configs, and that each system keeps the protocol."""

from __future__ import annotations

import importlib
import inspect
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from configs import autoencoder
from portrait_jax import systems
from portrait_jax.autoencoders.task import AutoencoderTask
from portrait_jax.errors import ConfigError
from portrait_jax.systems.follow_your_emoji import FollowYourEmoji
from portrait_jax.systems.system import System
from portrait_jax.training.task import SamplingTask
from tests import tiny, tiny_anyexpress, tiny_hunyuan, tiny_xnemo
from tests.systems.hallo3 import small
from tests.weights import tree_of


def test_configs_build_the_task_that_they_name():
    assert isinstance(systems.build(tiny.get_config()), FollowYourEmoji)
    assert isinstance(systems.build(autoencoder.get_config()), AutoencoderTask)


def test_an_unknown_task_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'follow_your_emoji'"):
        systems.build(ConfigDict({"task": "follow_your_emojy"}))


def test_a_config_of_a_system_builds_it():
    assert isinstance(systems.build_system(tiny.get_config()), FollowYourEmoji)


@pytest.mark.parametrize("task", sorted(systems.TASKS.keys() - systems.SYSTEMS.keys()))
def test_a_task_that_only_trains_is_no_system_and_those_that_are_are_named(task):
    with pytest.raises(ConfigError, match=f"task '{task}' animates no portraits; .*: .*follow_your_emoji"):
        systems.build_system(ConfigDict({"task": task}))
    with pytest.raises(ConfigError, match="did you mean 'follow_your_emoji'"):
        systems.build_system(ConfigDict({"task": "follow_your_emojy"}))


@pytest.mark.parametrize("name", sorted(systems.SYSTEMS))
def test_every_system_says_what_drives_it(name):
    module, task = systems.SYSTEMS[name].split(":")
    system = getattr(importlib.import_module(module), task)
    assert isinstance(system.driven_by, str)


@pytest.mark.parametrize("name", sorted(systems.TASKS))
def test_systems_are_exactly_the_tasks_that_keep_the_protocol(name):
    module, task = systems.TASKS[name].split(":")
    found = getattr(importlib.import_module(module), task)
    methods = [name for name, method in vars(System).items() if inspect.isfunction(method) and name[0] != "_"]
    assert all(hasattr(found, method) for method in methods) == (name in systems.SYSTEMS)


def test_the_system_has_every_method_of_the_protocol_with_the_same_arguments():
    system = tiny.make_system()
    assert isinstance(system, SamplingTask)
    methods = {name: method for name, method in vars(System).items() if inspect.isfunction(method) and name[0] != "_"}
    assert {"encode_portrait", "encode_driving", "denoise", "decode", "solver", "latent_shape"} <= set(methods)
    for name, method in methods.items():
        asked = list(inspect.signature(method).parameters)[1:]
        assert list(inspect.signature(getattr(system, name)).parameters) == asked, name
    for name in System.__annotations__:
        assert hasattr(system, name), name


@pytest.mark.parametrize(
    ("make", "picture", "tiles"),
    [
        (tiny.make_system, (1, 8, 8, 3), 4),
        (tiny_anyexpress.make_system, (1, 8, 8, 3), 4),
        (lambda: replace(tiny_xnemo.make_system(), temporal_decoder=True), (1, 8, 8, 3), 16),
        (tiny_hunyuan.make_system, (1, 8, 8, 3), 16),
        (small.make_system, (1, 9, 8, 8, 3), 6),
    ],
    ids=["follow_your_emoji", "anyexpress", "xnemo", "hunyuan_portrait", "hallo3"],
)
def test_every_system_decodes_tile_by_tile_where_its_sampling_says_so(make, picture, tiles):
    whole = make()
    system = replace(whole, sampling=replace(whole.sampling, decode_tile=3, decode_overlap=0.34))
    params = {"autoencoder": tree_of(system.autoencoder, jnp.zeros(picture))}
    latents = jnp.zeros((1, 3, *system.latent_shape()))
    traced, plain = (jax.make_jaxpr(each.decode)(params, latents) for each in (system, whole))
    assert traced.out_avals == plain.out_avals
    lengths = [set(re.findall(r"\blength=(\d+)", str(of))) for of in (traced, plain)]
    assert str(tiles) in lengths[0] - lengths[1], lengths
