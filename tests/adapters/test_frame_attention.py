"""Protects the ways in which frames are told of a person or their sound: formulas, starts, and whose tokens a frame sees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.adapters.frame_attention import KINDS, FrameAttention, FrameModulation, frame_slot
from portrait_jax.errors import ConfigError, ShapeError
from portrait_jax.nn.slots import Site
from tests.weights import random_params

SITE = Site("transformer_blocks", 0, 0, 64)


def plain(q, k):
    return q, k


def given(frames: int = 3, own: bool = True):
    tokens = (1, frames, 4, 6) if own else (1, 4, 6)
    return jax.random.normal(jax.random.key(0), (1, frames, 5, 8)), jax.random.normal(jax.random.key(1), tokens)


def made(kind: str, width: int = 8):
    return frame_slot("audio", "audio", 2, kind).make(Site("b", 0, 0, width), dtype=jnp.float32, name=None)


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_is_told_its_own_tokens_and_no_others(kind):
    (x, tokens), module = given(), made(kind)
    params = random_params(module, x, tokens, plain)
    out = module.apply(params, x, tokens, plain)
    change = np.abs(module.apply(params, x, tokens.at[:, 1].add(1.0), plain) - out).max((0, 2, 3))
    assert change[1] > 1e-3 and change[[0, 2]].max() == 0
    with pytest.raises(ShapeError, match="one set per frame"):
        module.apply(params, x, tokens[:, :2], plain)


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_of_a_clip_are_those_of_all_its_frames(kind):
    (x, tokens), module = given(own=False), made(kind)
    params = random_params(module, x, tokens, plain)
    each = jnp.broadcast_to(tokens[:, None], (1, 3, 4, 6))
    np.testing.assert_allclose(module.apply(params, x, tokens, plain), module.apply(params, x, each, plain), atol=1e-5)


def test_modulation_scales_and_shifts_a_norm_and_the_gated_one_starts_as_the_identity():
    x, tokens = given()
    normed = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    for zero in (False, True):
        module = FrameModulation(zero)
        fresh = module.init(jax.random.key(0), x, tokens, plain)
        start = module.apply(fresh, x, tokens, plain)
        assert zero == bool(np.array_equal(start, x))
        params = random_params(module, x, tokens, plain)
        tree = params["params"]
        told = jax.nn.silu(tokens.mean(2)) @ tree["linear"]["kernel"] + tree["linear"]["bias"]
        shift, scale, *gate = np.split(np.asarray(told)[:, :, None], 2 + zero, axis=-1)
        hidden = normed * tree["norm"]["scale"] + tree["norm"]["bias"]
        expected = x + gate[0] * (hidden * (1 + scale) + shift) if zero else x + hidden * scale + shift
        np.testing.assert_allclose(module.apply(params, x, tokens, plain), expected, atol=2e-5)


def test_attention_with_a_frames_own_tokens_mixes_these_too():
    """A change of one token of a frame reaches its others by attention alone: without `own` none is reached."""
    x, tokens = given()
    for own in (False, True):
        module = FrameAttention(2, own)
        params = random_params(module, x, tokens, plain)
        moved = module.apply(params, x.at[:, 1, 0].add(jnp.arange(8.0)), tokens, plain)
        change = np.abs(moved - module.apply(params, x, tokens, plain)).max((0, 3))
        assert change[1, 0] > 1e-2 and (change[1, 1:].min() > 1e-4) == own and change[[0, 2]].max() == 0


def test_fresh_weights_deviate_as_they_are_told():
    module = frame_slot("face", "image_tokens", 2, "cross", (0.02, 0.002)).make(SITE, dtype=jnp.float32, name=None)
    x, tokens = jnp.zeros((1, 1, 4, 64)), jnp.zeros((1, 4, 64))
    tree = module.init(jax.random.key(0), x, tokens, plain)["params"]
    for name, deviation in (("to_q", 0.02), ("to_k", 0.02), ("to_v", 0.02), ("to_out_0", 0.002)):
        assert float(tree[name]["kernel"].std()) == pytest.approx(deviation, rel=0.05)


def test_another_way_is_refused():
    with pytest.raises(ConfigError, match="told of face by 'adanl'; did you mean 'adaln'"):
        frame_slot("face", "image_tokens", 2, "adanl")
