"""Protects: the demo's config builds the published layout, and its patterns pick what each stage should train."""

from __future__ import annotations

import re

import jax
import pytest

from configs import autoencoder, follow_your_emoji
from data.pipeline import DataConfig
from portrait_jax.errors import ConfigError
from portrait_jax.settings import from_mapping
from portrait_jax.systems.follow_your_emoji import FollowYourEmoji
from portrait_jax.training.state import partition
from portrait_jax.training.task import LoopOptions


@pytest.fixture(scope="module")
def system() -> FollowYourEmoji:
    return FollowYourEmoji.from_config(follow_your_emoji.get_config("demo"))


@pytest.fixture(scope="module")
def shapes(system):
    """Every parameter's shape, by name."""
    return jax.eval_shape(system.init, jax.random.key(0))


def names(tree) -> set[str]:
    found = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in found}


def split(shapes, stage: str) -> tuple[set[str], set[str]]:
    config = follow_your_emoji.get_config(stage)
    trainable, frozen = partition(shapes, FollowYourEmoji.from_config(config).stages[stage].trainable)
    return names(trainable), names(frozen)


def test_the_first_stage_trains_all_but_the_autoencoder_and_the_motion_modules(shapes):
    trainable, frozen = split(shapes, "demo_stage1")
    assert trainable | frozen == names(shapes)
    assert {name.split("/")[0] for name in trainable} == {"denoiser", "reference", "guider", "image_encoder"}
    assert {re.sub("/.*", "", name) for name in frozen} == {"autoencoder", "denoiser"}
    assert {name for name in names(shapes) if "motion_modules" in name} == {
        name for name in frozen if name.startswith("denoiser")
    }


def test_the_second_stage_trains_the_motion_modules_alone(shapes):
    trainable, _ = split(shapes, "demo_stage2")
    assert trainable == {name for name in names(shapes) if "motion_modules" in name}
    assert all(name.startswith("denoiser/") for name in trainable)
    first, _ = split(shapes, "demo_stage1")
    assert not trainable & first


def test_the_first_stage_needs_an_autoencoder_and_the_second_the_first():
    first, second = (follow_your_emoji.get_config(stage).train for stage in ("demo_stage1", "demo_stage2"))
    assert set(first.init_from) == {"autoencoder"}
    assert dict(second.init_from) == {"*": "{workdir}/demo_stage1", "autoencoder": "{workdir}/demo_stage1"}


def test_the_checkpoint_fits_into_16_megabytes_at_half_precision(shapes):
    assert 2 * sum(leaf.size for leaf in jax.tree.leaves(shapes)) < 16e6


@pytest.mark.parametrize("stage", ["demo", "demo_stage1", "demo_stage2", "released"])
def test_data_loop_and_model_sections_fit_together(stage):
    config = follow_your_emoji.get_config(stage)
    data = from_mapping(DataConfig, config.data)
    system = FollowYourEmoji.from_config(config)
    assert data.size == system.image_size and data.drawing == system.drawing_style
    assert data.latent_factor == system.autoencoder_config.stride
    assert LoopOptions.from_config(config.train).checkpoint_every > 0
    assert system.loss_config.temporal == (stage != "demo_stage1")
    assert config.train.frames <= config.model.temporal.max_length
    assert system.sampling.window <= config.model.temporal.max_length


def test_the_demo_has_the_autoencoder_that_its_config_trains():
    trained, used = autoencoder.get_config().model, follow_your_emoji.get_config().model
    assert trained.autoencoder == used.autoencoder and trained.image_size == used.image_size


@pytest.mark.parametrize("module", [follow_your_emoji, autoencoder])
def test_an_unknown_stage_is_named(module):
    with pytest.raises(ConfigError, match="has no 'demo_stage3'"):
        module.get_config("demo_stage3")
