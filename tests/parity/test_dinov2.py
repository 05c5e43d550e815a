"""DINOv2 with registers equals transformers' at a small random size."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.encoders.dinov2 import DINOv2, DINOv2Config
from portrait_jax.encoders.resize import plain_cubic_weights
from tests.parity.oracle import assert_parity, channels_last, draw, publish, randomised, torch, transformers
from tests.weights import part_of

pytestmark = pytest.mark.parity

TINY = DINOv2Config(hidden=64, layers=3, heads=4, mlp=256, grid=4)


@pytest.fixture(scope="module")
def oracle():
    config = transformers.Dinov2WithRegistersConfig(
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=56,
        patch_size=14,
        num_register_tokens=4,
        layerscale_value=0.1,
    )
    made = randomised(transformers.Dinov2WithRegistersModel(config))
    assert sum(value.numel() for value in made.parameters()) == 189_632
    return made


@pytest.mark.parametrize(("height", "width", "tokens"), [(56, 56, 21), (84, 112, 53)])
def test_tokens_equal_transformers_at_the_stored_grid_and_at_another(oracle, height, width, tokens):
    part = part_of("dinov2_large_reg4_transformers")
    published = publish(oracle.state_dict(), part, DINOv2(TINY), jnp.zeros((1, 56, 56, 3)))

    def call(x):
        out = oracle(x).last_hidden_state
        assert out.shape[1] == tokens
        return out

    def apply(params, x, dtype):
        return DINOv2(TINY, dtype=dtype).apply(params, channels_last(x))

    names = ["embeddings.position_embeddings", "encoder.layer.1.layer_scale2.lambda1"]
    assert_parity(oracle, call, apply, draw(1, 3, height, width), published, names)


@pytest.mark.parametrize(("old", "new", "offset"), [(7, 4, 0.1), (4, 9, 0.0), (5, 5, 0.1)])
def test_plain_cubic_weights_equal_torch(old, new, offset):
    x, scale = draw(1, 2, old, 3), (new + offset) / old
    expected = torch.nn.functional.interpolate(torch.tensor(x), scale_factor=(scale, 1.0), mode="bicubic")
    weights = plain_cubic_weights(old, new, scale)
    np.testing.assert_allclose(np.einsum("yh,bchw->bcyw", weights, x), expected, atol=2e-6)
