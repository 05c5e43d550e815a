"""The T5 encoder equals transformers' at a small random size."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.encoders import T5Config, T5Encoder
from portrait_jax.encoders.t5 import distance_buckets
from tests.parity.oracle import assert_parity, publish, randomised, torch, transformers
from tests.weights import part_of

pytestmark = pytest.mark.parity

TINY = T5Config(vocabulary=100, width=48, layers=3, heads=6, head_dim=8, mlp=96)
NAMES = [
    "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    "shared.weight",
]


@pytest.fixture(scope="module")
def oracle():
    config = transformers.T5Config(
        d_model=48, d_kv=8, d_ff=96, num_layers=3, num_heads=6, vocab_size=100, dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    made = transformers.T5EncoderModel(config)
    assert sum(value.numel() for value in made.parameters()) == 74_448
    return randomised(made)


def test_hidden_states_equal_transformers_without_a_mask(oracle):
    ids = np.random.default_rng(0).integers(0, 100, (2, 226)).astype(np.int32)
    ids[:, 100:] = 0
    published = publish(oracle.state_dict(), part_of("t5_v1_1_xxl_encoder"), T5Encoder(TINY), jnp.asarray(ids))

    def apply(params, x, dtype):
        return T5Encoder(TINY, dtype).apply(params, x)

    assert_parity(oracle, lambda x: oracle(x.long()).last_hidden_state, apply, ids, published, NAMES)


def test_distances_fall_into_the_original_buckets():
    found = distance_buckets(300, 32, 128)
    offset = torch.arange(300)[None] - torch.arange(300)[:, None]
    expected = transformers.models.t5.modeling_t5.T5Attention._relative_position_bucket(offset, True, 32, 128)
    np.testing.assert_array_equal(found, expected.numpy())
