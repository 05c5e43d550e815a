"""Audio attention starts as the identity, hears its own frame alone, and adds nothing without a sound, whatever it has learnt."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.adapters.audio import AudioAttention, AudioConfig, AudioProjection, audio_slot
from portrait_jax.errors import ConfigError, ShapeError
from portrait_jax.nn.slots import Site
from tests.weights import random_params, shapes

CONFIG = AudioConfig(reach=1, hidden=6, tokens=4, width=8, num_heads=2)
MODULE = AudioAttention(CONFIG)


def given():
    return jax.random.normal(jax.random.key(0), (1, 3, 5, 8)), jax.random.normal(jax.random.key(1), (1, 3, 4, 8))


def test_a_new_module_is_the_identity():
    x, tokens = given()
    params = MODULE.init(jax.random.key(1), x, tokens)
    np.testing.assert_array_equal(MODULE.apply(params, x, tokens), x)


def test_zero_tokens_add_nothing_to_a_trained_module():
    x, tokens = given()
    params = random_params(MODULE, x, tokens)
    np.testing.assert_array_equal(MODULE.apply(params, x, 0 * tokens), x)
    assert np.abs(MODULE.apply(params, x, tokens) - x).max() > 1e-3


def test_a_frame_hears_its_own_tokens_and_no_others():
    x, tokens = given()
    params = random_params(MODULE, x, tokens)
    change = np.abs(MODULE.apply(params, x, tokens.at[:, 1].add(1.0)) - MODULE.apply(params, x, tokens)).max((0, 2, 3))
    assert change[1] > 1e-3 and change[[0, 2]].max() == 0
    with pytest.raises(ShapeError, match="one set of tokens per frame"):
        MODULE.apply(params, x, tokens[:, :2])


def test_the_scale_multiplies_what_is_added():
    x, tokens = given()
    params = random_params(MODULE, x, tokens)
    twice = AudioAttention(AudioConfig(num_heads=2, scale=2.0)).apply(params, x, tokens)
    np.testing.assert_allclose(twice - x, 2 * (MODULE.apply(params, x, tokens) - x), atol=1e-5)


def test_the_projection_is_three_layers_and_a_norm_as_simply_as_it_can_be_written():
    module, states = AudioProjection(CONFIG), jax.random.normal(jax.random.key(2), (1, 2, 3, 2, 5))
    params = random_params(module, states)
    tree, x = params["params"], np.asarray(states).reshape(2, 30)
    for name in ("proj1", "proj2", "proj3"):
        x = x @ np.asarray(tree[name]["kernel"]) + np.asarray(tree[name]["bias"])
        x = x if name == "proj3" else np.maximum(x, 0)
    x = x.reshape(1, 2, 4, 8)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    expected = x * np.asarray(tree["norm"]["scale"]) + np.asarray(tree["norm"]["bias"])
    np.testing.assert_allclose(module.apply(params, states), expected, atol=2e-5)
    with pytest.raises(ShapeError, match="have 2 frames, the projection reads 3"):
        module.apply(params, states[:, :, :2])


def test_published_sizes_count_as_they_should():
    tree = jax.eval_shape(AudioProjection().init, jax.random.key(0), jnp.zeros((1, 1, 5, 12, 768)))
    assert sum(np.prod(shape) for shape in shapes(tree).values()) == 36_465_152


def test_the_slot_sits_in_every_transformer_or_behind_each_layer():
    slot = audio_slot(CONFIG)
    assert slot.field == "audio" and slot.where == "after_attn2" and not slot.over_time
    assert slot.covers(Site("mid_block", 0, None, 8)) and slot.covers(Site("up_blocks_1", 2, 1, 8))
    assert audio_slot(AudioConfig(place="after_layer")).where == "after_layer"
    with pytest.raises(ConfigError, match="did you mean 'after_layer'"):
        AudioConfig(place="after_layers")
