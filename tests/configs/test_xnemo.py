"""Protects: the config of the release has the published sizes and the release's numbers, and names what does not fit."""

from __future__ import annotations

import math
import re

import jax
import pytest

from configs import xnemo
from portrait_jax.adapters.latent_motion import LatentMotionConfig
from portrait_jax.autoencoders import KLConfig
from portrait_jax.backbones.unet import UNetConfig
from portrait_jax.encoders.clip_vision import CLIPVisionConfig
from portrait_jax.encoders.fan import FANConfig
from portrait_jax.errors import ConfigError
from portrait_jax.interchange import layout_named
from portrait_jax.interchange.tables.xnemo import TEMPORAL_MODULES
from portrait_jax.systems import build
from portrait_jax.systems.xnemo import XNemo
from tests.weights import shapes


def test_the_release_has_the_sizes_of_the_published_layout():
    """The layout is compared with the manifest at the classes' defaults (`tests/interchange/test_tables.py`)."""
    system = build(xnemo.get_config())
    assert isinstance(system, XNemo) and system.temporal_decoder
    assert system.denoiser_config == UNetConfig(temporal=TEMPORAL_MODULES)
    assert system.motion_config == LatentMotionConfig()
    assert system.motion_encoder_config == FANConfig()
    assert system.image_encoder_config == CLIPVisionConfig()
    assert system.autoencoder_config == KLConfig()
    assert system.latent_shape() == (64, 64, 4)


def test_the_release_takes_the_original_scripts_steps():
    system = build(xnemo.get_config())
    solver = system.solver(system.sampling.steps)
    assert solver.timesteps[[0, 1, -1]].tolist() == [953, 925, 1]
    assert system.solver(25).timesteps[[0, -1]].tolist() == [961, 1]
    assert system.sampling.window <= system.denoiser_config.temporal.max_length


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("denoiser", "in_channels", 8, "must be equal, not 8 and 4"),
        ("image_encoder", "projection", 512, "image_encoder.projection must be equal, not 768 and 512"),
        ("motion_encoder", "image_size", 100, "multiple of 8"),
    ],
)
def test_sizes_that_do_not_fit_are_named(section, key, value, message):
    config = xnemo.get_config()
    with config.unlocked():
        config.model[section][key] = value
    with pytest.raises(ConfigError, match=message):
        build(config)


def test_an_unknown_name_is_refused():
    with pytest.raises(ConfigError, match="did you mean 'released'"):
        xnemo.get_config("release")


@pytest.mark.slow
def test_the_releases_parameters_are_those_of_its_layout():
    """Shapes only; the parts share the denoiser between them."""
    published: dict = {}
    for part in layout_named("xnemo").parts:
        links = {f"{part.subnet}/{link.path}": link.shape for link in part.links(part.published())}
        assert not published.keys() & links.keys()
        published |= links
    tree = jax.eval_shape(build(xnemo.get_config()).init, jax.random.key(0))
    assert shapes(tree) == published
    patterns = ("denoiser/.*temporal_modules", "denoiser/.*motion_modules", "motion_encoder", "autoencoder")
    sizes = {path: math.prod(shape) / 1e6 for path, shape in published.items()}
    millions = [sum(size for path, size in sizes.items() if re.match(pattern, path)) for pattern in patterns]
    assert [round(count, 1) for count in millions] == [453.2, 372.1, 61.7, 97.7]
