"""CLIP's towers equal transformers' at small random sizes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.encoders import CLIPText, CLIPTextConfig, CLIPVision, CLIPVisionConfig
from tests.parity.oracle import (
    FORWARD,
    assert_parity,
    channels_last,
    draw,
    joined,
    publish,
    randomised,
    relative,
    torch,
    transformers,
)
from tests.weights import part_of

pytestmark = pytest.mark.parity

TEXT = CLIPTextConfig(vocabulary=99, hidden=48, layers=3, heads=4, mlp=96)


def vision_sizes(activation: str):
    ours = CLIPVisionConfig(
        hidden=64, layers=3, heads=4, mlp=128, patch=14, image_size=56, projection=32, activation=activation
    )
    theirs = transformers.CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        patch_size=14,
        image_size=56,
        projection_dim=32,
        hidden_act=activation,
    )
    return ours, theirs


@pytest.mark.parametrize(("activation", "layout"), [("quick_gelu", "clip_vision_vit_l"), ("gelu", "clip_vision_vit_h")])
def test_vision_tokens_and_embedding_equal_transformers(activation, layout):
    ours, theirs = vision_sizes(activation)
    oracle = randomised(transformers.CLIPVisionModelWithProjection(theirs))
    assert sum(value.numel() for value in oracle.parameters()) == 141_504
    published = publish(oracle.state_dict(), part_of(layout), CLIPVision(ours), jnp.zeros((1, 56, 56, 3)))

    def call(x):
        out = oracle(x, output_hidden_states=True)
        return joined([out.image_embeds, out.last_hidden_state, out.hidden_states[-2]])

    def apply(params, x, dtype):
        def run(**options):
            return CLIPVision(ours, dtype).apply(params, channels_last(x), **options)

        return joined([run(embed=True), run(), run(layer=-2)])

    names = ["vision_model.embeddings.position_embedding.weight", "vision_model.encoder.layers.1.mlp.fc1.weight"]
    assert_parity(oracle, call, apply, draw(2, 3, 56, 56), published, names)


def test_vision_tower_without_projection_equals_transformers():
    ours, theirs = vision_sizes("quick_gelu")
    oracle = randomised(transformers.CLIPVisionModel(theirs), seed=1)
    x = draw(1, 3, 56, 56)
    expected = oracle(torch.tensor(x)).last_hidden_state.detach().numpy()

    module = CLIPVision(CLIPVisionConfig(**(vars(ours) | {"projection": None})))
    weights = {
        f"vision_model.{name.removeprefix('vision_model.')}": value
        for name, value in oracle.state_dict().items()
        if "post_layernorm" not in name
    }
    published = publish(weights, part_of("clip_vision_vit_l"), module, jnp.zeros((1, 56, 56, 3)))
    assert relative(jax.jit(module.apply)(published.variables, channels_last(x)), expected) < FORWARD


@pytest.fixture(scope="module")
def text_oracle():
    config = transformers.CLIPTextConfig(
        vocab_size=99,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        hidden_act="quick_gelu",
        eos_token_id=98,
        bos_token_id=97,
    )
    oracle = randomised(transformers.CLIPTextModel(config))
    assert sum(value.numel() for value in oracle.parameters()) == 65_424
    return oracle


def published_text(oracle):
    """Files keep a level of names that transformers has dropped in memory: the map knows both."""
    return publish(oracle.state_dict(), part_of("sd15_text_encoder"), CLIPText(TEXT), jnp.zeros((1, 77), int))


def test_text_tokens_equal_transformers(text_oracle):
    ids = np.random.default_rng(1).integers(0, 97, (2, 77))
    published = published_text(text_oracle)
    prefix = "text_model." if "text_model.final_layer_norm.weight" in dict(text_oracle.named_parameters()) else ""
    names = [f"{prefix}embeddings.token_embedding.weight", f"{prefix}encoder.layers.1.self_attn.v_proj.weight"]

    def apply(params, ids, dtype):
        return CLIPText(TEXT, dtype).apply(params, ids)

    assert_parity(text_oracle, lambda ids: text_oracle(ids).last_hidden_state, apply, ids, published, names)


def test_clip_skip_takes_the_layer_before_and_the_final_norm(text_oracle):
    ids = np.random.default_rng(2).integers(0, 97, (1, 77))
    params = published_text(text_oracle).variables
    hidden = text_oracle(torch.tensor(ids), output_hidden_states=True).hidden_states[-2]
    norm = next(module for name, module in text_oracle.named_modules() if name.endswith("final_layer_norm"))
    out = jax.jit(lambda ids: CLIPText(TEXT).apply(params, ids, clip_skip=2))(jnp.asarray(ids))
    assert relative(out, norm(hidden).detach().numpy()) < FORWARD
