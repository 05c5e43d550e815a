"""Protects: a config of Follow-Your-Emoji whose parts do not fit each other is refused with what is wrong."""

from __future__ import annotations

import pytest

from portrait_jax.errors import ConfigError
from portrait_jax.systems.follow_your_emoji import FollowYourEmoji
from tests import tiny


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        (
            "denoiser",
            "in_channels",
            4,
            "denoiser.in_channels and autoencoder.latent_channels must be equal, not 4 and 8",
        ),
        ("denoiser", "image_prompt_dim", 24, "image_encoder.hidden must be equal, not 24 and 16"),
        ("guider", "out_channels", 16, "guider.out_channels and denoiser.block_out_channels"),
        ("guider", "channels", (4, 8), "strides of guider and autoencoder must be equal, not 4 and 8"),
    ],
)
def test_sizes_that_do_not_fit_each_other_are_named(section, key, value, message):
    config = tiny.get_config()
    config.model[section][key] = value
    with pytest.raises(ConfigError, match=message):
        FollowYourEmoji.from_config(config)


def test_an_image_size_that_is_no_multiple_of_the_stride_is_named():
    config = tiny.get_config()
    config.model.image_size = 36
    with pytest.raises(ConfigError, match="not 36 and 32"):
        FollowYourEmoji.from_config(config)


def test_a_mistyped_setting_names_the_nearest():
    config = tiny.get_config()
    with config.unlocked():
        config.model.denoiser.layers_per_blok = 2
    with pytest.raises(ConfigError, match="did you mean 'layers_per_block'"):
        FollowYourEmoji.from_config(config)


def test_a_config_without_a_prediction_means_velocity():
    """Configs that were saved with older checkpoints have no such key."""
    config = tiny.get_config()
    del config.model.prediction
    assert FollowYourEmoji.from_config(config).prediction == "v"


@pytest.mark.parametrize(
    ("prediction", "message"), [("velocity", "unknown prediction"), ("epsilon", "zero_terminal_snr")]
)
def test_a_prediction_that_does_not_exist_or_fit_is_named(prediction, message):
    config = tiny.get_config()
    config.model.prediction = prediction
    with pytest.raises(ConfigError, match=message):
        FollowYourEmoji.from_config(config)
