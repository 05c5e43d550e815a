"""Latent-motion attention lets a frame see its own tokens alone, starts as the identity, and sits at every layer."""

import jax
import numpy as np
import pytest

from portrait_jax.adapters.latent_motion import LatentMotionAttention, LatentMotionConfig, latent_motion_slot
from portrait_jax.errors import ShapeError
from portrait_jax.nn.slots import Site
from tests.weights import random_params

MODULE = LatentMotionAttention(LatentMotionConfig(num_heads=2, attentions=1, norm_groups=4))


def given():
    return jax.random.normal(jax.random.key(0), (1, 3, 2, 2, 8)), jax.random.normal(jax.random.key(1), (1, 3, 5, 6))


def test_new_module_is_the_identity():
    x, tokens = given()
    params = jax.jit(MODULE.init)(jax.random.key(1, impl="rbg"), x, tokens)
    np.testing.assert_array_equal(jax.jit(MODULE.apply)(params, x, tokens), x)


def test_the_tokens_of_a_frame_change_that_frame_and_no_other():
    x, tokens = given()
    params, run = random_params(MODULE, x, tokens), jax.jit(MODULE.apply)
    change = np.abs(run(params, x, tokens.at[:, 1].add(1.0)) - run(params, x, tokens)).max((0, 2, 3, 4))
    assert change[1] > 1e-3 and change[[0, 2]].max() == 0


def test_tokens_of_other_frames_are_refused():
    x, tokens = given()
    with pytest.raises(ShapeError, match="one set of tokens per frame"):
        jax.eval_shape(MODULE.init, jax.random.key(0), x, tokens[:, :2])


def test_the_slot_covers_every_layer_or_the_configured_levels():
    every, some = (
        latent_motion_slot(LatentMotionConfig(levels=levels, mid=mid)) for levels, mid in ((None, True), ((0,), False))
    )
    sites = [Site("down_blocks_0", 0, 0, 8), Site("down_blocks_1", 0, 1, 8), Site("mid_block", 0, None, 8)]
    assert [every.covers(site) for site in sites] == [True] * 3
    assert [some.covers(site) for site in sites] == [True, False, False]
    assert every.field == "motion" and not every.over_time
