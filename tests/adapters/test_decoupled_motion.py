"""Decoupled motion attention: what it adds to a spatio-temporal backbone, and whose motion reaches which frame."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.adapters.decoupled_motion import copied_from_base, decoupled_motion_slots, silenced
from portrait_jax.backbones.svd_unet import SVDUNet, SVDUNetConfig
from portrait_jax.conditioning import Conditioning
from portrait_jax.training.state import flatten
from tests.weights import random_params, shapes, tree_of

CONFIG = SVDUNetConfig(
    in_channels=2, out_channels=2, block_out_channels=(4,), layers_per_block=1, attention_levels=(True,), norm_groups=2,
    num_heads=(2,), context_dim=3, id_dim=4,
)  # fmt: skip
X, TIME = jnp.zeros((1, 3, 4, 4, 2)), jnp.zeros(1)
MOTION = jax.random.normal(jax.random.key(0), (1, 3, 2, 3))


def module(scale: float = 1.0) -> SVDUNet:
    return SVDUNet(CONFIG, decoupled_motion_slots(CONFIG.num_heads, scale))


@pytest.fixture(scope="module")
def params():
    return random_params(module(), X, TIME, Conditioning(motion=MOTION))


def test_every_cross_attention_over_places_and_over_time_has_a_second_pair(params):
    base, whole = shapes(tree_of(SVDUNet(CONFIG), X, TIME)), shapes(params["params"])
    added = sorted(whole.keys() - base.keys())
    attentions = [path for path in base if path.endswith("attn2/to_k/kernel")]
    assert len(added) == 2 * len(attentions) == 2 * 2 * 4
    assert all("/attn2/processor/to_" in path for path in added)


def test_no_motion_is_no_second_attention_and_zero_motion_adds_nothing(params):
    base = SVDUNet(CONFIG)
    run = jax.jit(module().apply)
    tokens = jax.random.normal(jax.random.key(1), (1, 2, 3))
    plain = jax.jit(base.apply)(params, X, TIME, Conditioning(image_tokens=tokens))
    np.testing.assert_allclose(
        run(params, X, TIME, Conditioning(image_tokens=tokens, motion=0 * MOTION)), plain, atol=1e-5
    )
    moved = run(params, X, TIME, Conditioning(image_tokens=tokens, motion=MOTION))
    assert np.abs(moved - plain).max() > 1e-3


def test_a_silent_start_says_nothing_whatever_the_motion():
    muted = silenced(random_params(module(), X, TIME, Conditioning(motion=MOTION))["params"])
    values = [leaf for path, leaf in flatten(muted).items() if "to_v_ip_0" in path]
    assert len(values) > 2 and not any(np.any(leaf) for leaf in values)
    assert all(np.any(leaf) for path, leaf in flatten(muted).items() if "to_k_ip_0" in path)
    run = jax.jit(module().apply)
    one, other = (run({"params": muted}, X, TIME, Conditioning(motion=motion)) for motion in (MOTION, -MOTION))
    np.testing.assert_array_equal(one, other)


def test_training_starts_from_copies(params):
    plain = random_params(SVDUNet(CONFIG), X, TIME)["params"]
    base = copied_from_base(plain)
    assert shapes(base) == shapes(copied_from_base(params["params"])) == shapes(params["params"])
    attention = base["mid_block"]["attentions_0"]["temporal_transformer_blocks_0"]["attn2"]
    np.testing.assert_array_equal(attention["processor"]["to_k_ip_0"]["kernel"], attention["to_k"]["kernel"])
