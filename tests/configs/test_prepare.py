"""Protects: the config file and the code of the preparations know the same settings."""

from __future__ import annotations

import dataclasses

import pytest

from configs import prepare
from data.motion_latents import LatentsConfig
from data.prepare_synthetic import SyntheticConfig
from data.prepare_video import VideoConfig
from data.skeletons import SkeletonsConfig
from portrait_jax.errors import ConfigError

SETTINGS = {
    "synthetic": SyntheticConfig,
    "video": VideoConfig,
    "latents": LatentsConfig,
    "skeletons": SkeletonsConfig,
    "motion": dataclasses.make_dataclass("Nothing", []),
}


@pytest.mark.parametrize("name", list(prepare.CONFIGS))
def test_every_setting_of_the_code_is_named_and_no_other(name):
    config = prepare.get_config(name).to_dict()
    settings = SETTINGS[config.pop("kind")]
    assert config.pop("processes") == 0
    assert config.keys() == {field.name for field in dataclasses.fields(settings)}
    settings(**config)


def test_poses_are_the_same_people_at_four_frames_a_second():
    assert prepare.get_config("poses").to_dict() == {**prepare.get_config("synthetic").to_dict(), "fps": 4.0}


def test_an_unknown_data_set_is_named():
    with pytest.raises(ConfigError, match="did you mean 'video'"):
        prepare.get_config("videos")
