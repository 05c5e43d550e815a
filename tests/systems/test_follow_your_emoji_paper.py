"""Protects what the paper has and the release has not: masked progressive latents, and the image prompt's resampler."""

from __future__ import annotations

from functools import cache

import jax
import numpy as np
import pytest

from portrait_jax.autoencoders.pixels import to_pm1
from portrait_jax.errors import ConfigError
from portrait_jax.systems.follow_your_emoji import FollowYourEmoji
from tests import tiny
from tests.systems.test_follow_your_emoji import Spied, spied


def config_of(progressive: str = "none", stage: str = "demo", **loss):
    config = tiny.get_config(stage)
    config.model.progressive, config.model.portrait_latents = progressive, False
    config.loss.update(loss)
    return config


def input_channels(progressive: str) -> dict[str, int]:
    shapes = jax.eval_shape(FollowYourEmoji.from_config(config_of(progressive)).init, jax.random.key(0))
    return {name: shapes[name]["conv_in"]["kernel"].shape[2] for name in ("denoiser", "reference")}


@pytest.mark.parametrize(
    ("progressive", "channels"), [("none", 8), ("masked_latents", 8 + 8 + 1), ("masked_latents_only", 8 + 8)]
)
def test_masked_latents_widen_the_denoiser_and_not_the_reference_net(progressive, channels):
    assert input_channels(progressive) == {"denoiser": channels, "reference": 8}


def test_the_portraits_latents_come_before_masked_ones_so_that_these_can_be_added_later():
    config = config_of("masked_latents")
    config.model.portrait_latents = True
    assert FollowYourEmoji.from_config(config).denoiser_config.joined_inputs == ("portrait", "known", "given")


def test_a_progressive_form_that_does_not_exist_is_named():
    with pytest.raises(ConfigError, match="did you mean 'masked_latents'"):
        FollowYourEmoji.from_config(config_of("masked_latent"))


@cache
def asked(progressive: str, stage: str, masking: str, blank: float):
    """What the denoiser is told in one step of training, and the clean latents."""
    config = config_of(progressive, stage, masking=masking, blank=blank)
    config.model.denoiser.update({"block_out_channels": (8,), "attention_levels": (True,)})
    config.model.temporal.levels = (0,)
    system = Spied.from_config(config)

    @jax.jit
    def run(params, batch, key):
        system.loss(params, batch, key, stage)
        conditioning = system.asked.conditioning
        return conditioning.known, conditioning.given, system.to_latents(params, to_pm1(batch["frames"]))

    params = tiny.make_params(tiny.make_system())
    used = {name: params[name] for name in ("autoencoder", "guider")} | {"denoiser": {}}
    return run(used, tiny.make_batch(16, 4), jax.random.key(1))


@pytest.mark.parametrize(("masking", "blank"), [("ends", 0.0), ("mixed", 0.0), ("each", 1.0)])
def test_clips_are_given_clean_latents_by_the_chosen_strategy(masking, blank):
    known, given, clean = asked("masked_latents", "demo_stage2", masking, blank)
    np.testing.assert_array_equal(known, clean * given[:, :, None, None, None])
    ends = (np.asarray(given) == [1, 0, 0, 1]).all(axis=1)
    expected = {"ends": ends.all(), "mixed": 0.2 < ends.mean() < 0.9, "each": not given.any()}
    assert expected[masking]


@pytest.mark.parametrize(("progressive", "stage"), [("none", "demo_stage2"), ("masked_latents", "demo_stage1")])
def test_nothing_is_given_to_single_frames_or_to_a_system_without_masked_latents(progressive, stage):
    known, given, _ = asked(progressive, stage, "mixed", 0.0)
    assert known is None and given is None


@pytest.mark.parametrize("setting", [{"masking": "edns"}, {"blank": 2.0}])
def test_a_masking_that_does_not_exist_is_refused(setting):
    with pytest.raises(ConfigError):
        FollowYourEmoji.from_config(config_of("masked_latents", **setting))


# The image prompt


def prompted(**settings):
    config = tiny.get_config()
    config.model.image_prompt = {"kind": "resampler", "tokens": 3, "depth": 2, "head_size": 8, **settings}
    return FollowYourEmoji.from_config(config)


def test_the_resampler_takes_the_place_of_the_linear_layers_of_both_networks():
    system = prompted()
    shapes = {name: leaf.shape for name, leaf in tiny.leaves(tiny.make_params(system)).items()}
    linear = {name: leaf.shape for name, leaf in tiny.leaves(tiny.make_params(tiny.make_system())).items()}
    assert {name for name in linear if "clip_fc" in name} == {
        f"{net}/clip_fc/{leaf}" for net in ("denoiser", "reference") for leaf in ("kernel", "bias")
    }
    assert linear.keys() - shapes.keys() == {name for name in linear if "clip_fc" in name}
    assert {name.split("/")[0] for name in shapes.keys() - linear.keys()} == {"image_prompt"}
    assert shapes["image_prompt/latents"] == (1, 3, 16)
    assert shapes["denoiser/down_blocks_0/attentions_0/transformer_blocks_0/attn2/to_k/kernel"][0] == 16


def test_resampled_tokens_reach_both_networks_and_are_dropped_to_zeros():
    system = prompted()
    params = tiny.make_params(system)
    batch = tiny.make_batch(1, 1)

    @jax.jit
    def encode(params):
        portrait = system.encode_portrait(params, batch["reference"])
        branches = system.encode_driving(params, portrait, {"control": batch["control"]})
        return portrait, branches["uncond"].image_tokens

    portrait, dropped = encode(params)
    other, _ = encode({**params, "image_prompt": jax.tree.map(lambda leaf: 1.5 * leaf, params["image_prompt"])})
    assert portrait.image_tokens.shape == (1, 3, 16) and not np.asarray(dropped).any()
    assert np.abs(portrait.image_tokens - other.image_tokens).max() > 1e-3
    # What the first transformer captures was computed before any cross-attention; the later ones heard the tokens.
    moved = {path: float(np.abs(portrait.reference[path] - other.reference[path]).max()) for path in portrait.reference}
    assert max(moved.values()) > 1e-5
    assert tiny.leaves(portrait.image_tokens) and system.denoiser_config.image_prompt_dim is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"kind": "resampled"}, "did you mean 'resampler'"), ({"depht": 1}, "did you mean 'depth'")],
)
def test_an_image_prompt_that_does_not_exist_is_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        prompted(**settings)


def test_a_config_without_the_papers_options_is_the_releases():
    """Configs that were saved with older checkpoints have no such keys."""
    config = tiny.get_config()
    del config.model.image_prompt, config.model.progressive, config.loss.masking, config.loss.blank
    del config.model.portrait_latents
    system = FollowYourEmoji.from_config(config)
    assert system.image_prompt_config is None and system.denoiser_config.joined_inputs == ()
    assert system.denoiser_config.image_prompt_dim == 16


# The loss


def test_a_mask_that_does_not_count_is_an_empty_one():
    params, batch = tiny.make_params(tiny.make_system()), tiny.make_batch()
    alone = spied(params, batch, masks=("oval_mask",))
    emptied = spied(params, batch | {"expression_mask": 0 * batch["expression_mask"]})
    assert alone.facial == pytest.approx(float(emptied.facial), rel=1e-5)
    assert alone.loss == pytest.approx(float(emptied.loss), rel=1e-5)
    assert 0 < alone.facial < spied(params, batch).facial


def test_a_mask_that_no_batch_has_is_named():
    with pytest.raises(ConfigError, match="did you mean 'oval_mask'"):
        FollowYourEmoji.from_config(config_of(masks=("ovl_mask",)))
