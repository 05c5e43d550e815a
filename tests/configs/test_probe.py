"""Protects: the probe's config counts the generator's traits, and its data gives what the probe learns from."""

from __future__ import annotations

import pytest

from configs import probe
from data import synthetic
from data.pipeline import KINDS, DataConfig
from portrait_jax.errors import ConfigError
from portrait_jax.metrics.probe import ProbeTask
from portrait_jax.settings import from_mapping


def test_the_probe_learns_every_trait_of_the_generator_from_data_that_gives_them():
    config = probe.get_config()
    task = ProbeTask.from_config(config)
    assert task.config.attributes == len(synthetic.ATTRIBUTE_NAMES)
    data = from_mapping(DataConfig, config.data)
    assert set(task.batch_keys) <= set(KINDS[data.kind].gives) and data.size == task.config.size


def test_an_unknown_stage_is_named():
    with pytest.raises(ConfigError, match="train"):
        probe.get_config("training")
