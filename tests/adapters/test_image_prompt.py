"""Image prompts: where the second attention sits, updates of low rank, errors."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from portrait_jax.adapters.image_prompt import (
    ImagePromptConfig,
    image_prompt_slot,
    init_lora,
    merge_lora,
    split_lora,
)
from portrait_jax.backbones.unet import UNet, UNetConfig
from portrait_jax.conditioning import Conditioning
from portrait_jax.errors import CheckpointError, ConfigError
from tests.weights import random_params

SMALL = UNetConfig(
    block_out_channels=(8,), layers_per_block=1, attention_levels=(True,), num_heads=2, context_dim=6, norm_groups=4,
    context_field="text",
)  # fmt: skip


@pytest.fixture(scope="module")
def small():
    """Module, variables and inputs of a small UNet with a picture."""
    conditioning = Conditioning(
        text=jax.random.normal(jax.random.key(1), (2, 3, 6)),
        image_tokens=jax.random.normal(jax.random.key(2), (2, 4, 6)),
    )
    module, x = UNet(SMALL, (image_prompt_slot(heads=2),)), jax.random.normal(jax.random.key(3), (2, 3, 4, 4, 4))
    return module, random_params(module, x, jnp.zeros(2), conditioning), x, conditioning


def test_the_picture_speaks_as_loud_as_its_scale_and_not_at_all_without_one(small):
    _, params, x, conditioning = small

    def run(scale, conditioning):
        module = UNet(SMALL, (image_prompt_slot(2, scale),))
        return jax.jit(module.apply)(params, x, jnp.zeros(2), conditioning)

    base = run(1.0, conditioning.replace(image_tokens=None))
    assert np.abs(run(1.0, conditioning) - base).max() > 1e-2
    np.testing.assert_allclose(run(0.0, conditioning), base, atol=1e-5)


def test_a_new_update_changes_nothing_and_gradients_reach_both_halves(small):
    module, variables, x, conditioning = small
    params = variables["params"]
    lora = init_lora(jax.random.key(0), params, rank=2)
    same = jax.tree.map(lambda a, b: bool((a == b).all()), merge_lora(params, lora), dict(params))
    assert all(jax.tree.leaves(same))
    lora = jax.tree.map(lambda leaf: leaf + 0.1, lora)

    @jax.jit
    def gradients(lora):
        def loss(lora):
            merged = {"params": merge_lora(params, lora, 0.5)}
            return jnp.mean(module.apply(merged, x, jnp.zeros(2), conditioning) ** 2)

        return jax.grad(loss)(lora)

    assert all(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradients(lora)))


def test_an_import_of_base_and_updates_is_taken_apart_again(small):
    params = small[1]["params"]
    lora = init_lora(jax.random.key(0), params, rank=2)
    flat = [traverse_util.flatten_dict(tree, sep="/") for tree in (params, lora)]
    base, updates = split_lora(traverse_util.unflatten_dict(flat[0] | flat[1], sep="/"))
    for found, expected in zip((base, updates), flat):
        found = traverse_util.flatten_dict(found, sep="/")
        assert found.keys() == expected.keys() and all(found[path] is expected[path] for path in expected)


def test_mistakes_name_the_remedy(small):
    params = small[1]["params"]
    with pytest.raises(ConfigError, match="did you mean 'face_id'"):
        ImagePromptConfig("faceid")
    lora = init_lora(jax.random.key(0), params, rank=2)
    lora["mid_block"]["attentions_7"] = lora["mid_block"].pop("attentions_0")
    with pytest.raises(CheckpointError, match=r"16 low-rank .*mid_block/attentions_7"):
        merge_lora(params, lora)
    with pytest.raises(ConfigError, match="cross-attention cannot read 'texts'; did you mean 'text'"):
        UNetConfig(context_field="texts")
