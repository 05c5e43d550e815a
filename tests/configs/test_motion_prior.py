"""Protects: the paper's numbers, that both stages fit each other and their data, and that labels are one number."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from configs import motion_prior
from data.pipeline import KINDS, DataConfig
from portrait_jax import systems
from portrait_jax.errors import ConfigError
from portrait_jax.settings import from_mapping
from portrait_jax.training.state import partition
from portrait_jax.training.task import LoopOptions

NAMES = ["vqvae", "gpt", "vqvae_demo", "gpt_demo"]


@pytest.mark.parametrize("name", NAMES)
def test_a_stage_builds_trains_what_it_says_and_its_data_gives_what_it_reads(name):
    config = motion_prior.get_config(name)
    task = systems.build(config)
    assert list(task.stages) == [name.removesuffix("_demo")] and LoopOptions.from_config(config.train).seed == 0
    data = from_mapping(DataConfig, config.data)
    assert set(task.batch_keys) <= set(KINDS[data.kind].gives) and data.clip_frames >= config.train.frames
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    trained, _ = partition(shapes, task.stages[config.stage].patterns)
    assert set(trained) == {"vqvae" if name.startswith("vqvae") else "prior"}
    json.loads(config.to_json_best_effort())


def test_the_sizes_are_the_papers():
    config = motion_prior.get_config("gpt")
    task = systems.build(config)
    assert (task.vq_config.codes, task.vq_config.code_dim, task.vq_config.factor, config.train.frames) == (
        4096,
        8,
        4,
        128,
    )
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    count = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes["prior"]))
    # GPT-2 small without its words: 12 layers of width 768 and 1024 places; 4096 codes and a start token instead.
    assert count == 124_439_808 - (50257 - 4097) * 768


@pytest.mark.parametrize("name", ["vqvae", "gpt"])
def test_full_size_steps_lower_from_shapes(name):
    task = systems.build(motion_prior.get_config(name))
    params = jax.eval_shape(task.init, jax.random.key(0))
    batch = {"motion": jax.ShapeDtypeStruct((2, 128, 512), np.float32)}
    loss, _ = jax.eval_shape(lambda params, batch: task.loss(params, batch, jax.random.key(0)), params, batch)
    assert loss.shape == ()


def test_labels_are_one_number_for_data_and_prior():
    config = motion_prior.get_config("gpt")
    config.model.prior.emotions = 8
    assert config.data.emotions == 8
    task = systems.build(config)
    assert task.batch_keys == ("motion", "emotion") and task.network.config.vocabulary == 4096 + 1 + 8


def test_the_second_stage_starts_from_the_first():
    assert motion_prior.get_config("gpt").train.init_from.to_dict() == {"*": "{workdir}/vqvae", "motion_statistics": ""}
    assert motion_prior.get_config("vqvae").stage == "vqvae"


def test_an_unknown_stage_is_named():
    with pytest.raises(ConfigError, match="did you mean 'vqvae'"):
        motion_prior.get_config("vqva")
