"""Protects: the autoencoder's stages train what they say, on data that fits, and its latents suit the demo systems."""

from __future__ import annotations

import jax
import pytest

from configs import autoencoder
from data.pipeline import KINDS, DataConfig
from portrait_jax.autoencoders.task import AutoencoderTask
from portrait_jax.errors import ConfigError
from portrait_jax.settings import from_mapping
from portrait_jax.training.state import partition
from portrait_jax.training.task import LoopOptions

STAGES = {"demo": "autoencoder", "demo_decoder": "decoder"}


@pytest.fixture(scope="module")
def shapes():
    """Every parameter's shape; both stages have the same."""
    task = AutoencoderTask.from_config(autoencoder.get_config())
    return jax.eval_shape(task.init, jax.random.key(0))


def names(tree) -> set[str]:
    found = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in found}


@pytest.mark.parametrize(("name", "stage"), STAGES.items())
def test_a_stage_builds_and_its_data_gives_what_it_reads(name, stage):
    config = autoencoder.get_config(name)
    task = AutoencoderTask.from_config(config)
    assert list(task.stages) == [stage] and LoopOptions.from_config(config.train).seed == 0
    data = from_mapping(DataConfig, config.data)
    assert set(task.batch_keys) <= set(KINDS[data.kind].gives)
    assert data.size == task.image_size and task.image_size % task.config.stride == 0


def trained(name: str, shapes) -> set[str]:
    """Names of the parameters that the stage trains."""
    task = AutoencoderTask.from_config(autoencoder.get_config(name))
    return names(partition(shapes, task.stages[STAGES[name]].trainable)[0])


def test_the_second_stage_trains_the_decoder_on_and_leaves_the_latents(shapes):
    assert trained("demo", shapes) == names(shapes)
    decoder = trained("demo_decoder", shapes)
    assert {name.split("/")[1] for name in decoder} == {"decoder", "post_quant_conv"}
    assert {name.split("/")[1] for name in names(shapes) - decoder} == {"encoder", "quant_conv"}
    assert autoencoder.get_config("demo_decoder").train.init_from.autoencoder == "{workdir}/autoencoder"


def test_an_unknown_stage_is_named():
    with pytest.raises(ConfigError, match="did you mean 'demo_decoder'"):
        autoencoder.get_config("decoder")
