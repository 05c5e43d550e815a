"""wav2vec 2.0 equals transformers' at a small random size, at its own rate and at video rate."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.encoders import Wav2Vec2, Wav2Vec2Config, normalise_waveform
from portrait_jax.encoders.wav2vec2 import interpolate
from tests.parity.oracle import (
    FORWARD,
    assert_parity,
    draw,
    publish,
    randomised,
    relative,
    torch,
    transformers,
)
from tests.weights import part_of

pytestmark = pytest.mark.parity

TINY = Wav2Vec2Config(conv_channels=(32,) * 7, hidden=48, layers=3, heads=4, mlp=96)
NAMES = ["feature_extractor.conv_layers.0.conv.weight", "encoder.layers.1.attention.k_proj.weight"]


@pytest.fixture(scope="module")
def oracle():
    config = transformers.Wav2Vec2Config(
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=96,
        conv_dim=(32,) * 7,
        num_conv_pos_embeddings=128,
        num_conv_pos_embedding_groups=16,
    )
    made = transformers.Wav2Vec2Model(config)
    assert sum(value.numel() for value in made.parameters()) == 94_048
    return randomised(made)


def published(oracle):
    """The positional convolution comes as magnitude and direction."""
    assert any("parametrizations" in name for name in oracle.state_dict())
    return publish(oracle.state_dict(), part_of("wav2vec2_base_960h"), Wav2Vec2(TINY), jnp.zeros((1, 400)))


def test_hidden_states_of_all_layers_equal_transformers(oracle):
    def call(x):
        states = oracle(x, output_hidden_states=True).hidden_states
        assert [tuple(state.shape) for state in states] == [(1, 49, 48)] * 4
        return torch.stack(states, 2)

    def apply(params, x, dtype):
        return Wav2Vec2(TINY, dtype).apply(params, x)

    assert_parity(oracle, call, apply, draw(1, 16000), published(oracle), NAMES)


def test_video_rate_features_equal_interpolation_before_the_transformer(oracle):
    def resample(module, inputs, features):
        return torch.nn.functional.interpolate(features, size=13, mode="linear", align_corners=True)

    def call(x):
        hook = oracle.feature_extractor.register_forward_hook(resample)
        try:
            return torch.stack(oracle(x, output_hidden_states=True).hidden_states, 2)
        finally:
            hook.remove()

    def apply(params, x, dtype):
        return Wav2Vec2(TINY, dtype).apply(params, x, 13)

    assert_parity(oracle, call, apply, draw(1, 8000), published(oracle), NAMES)


def test_waveform_is_normalised_as_the_feature_extractor_does():
    wave = 0.1 * draw(1, 3000) + 0.02
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
    expected = extractor(wave[0], sampling_rate=16000, return_tensors="np")["input_values"]
    assert relative(normalise_waveform(jnp.asarray(wave)), expected) < FORWARD


@pytest.mark.parametrize("size", [1, 2, 30, 49, 60])
def test_interpolation_equals_torch(size):
    features = draw(2, 49, 3)
    expected = torch.nn.functional.interpolate(
        torch.tensor(np.moveaxis(features, -1, 1)), size=size, mode="linear", align_corners=True
    )
    found = jax.jit(interpolate, static_argnums=1)(jnp.asarray(features), size)
    assert relative(found, np.moveaxis(expected.numpy(), 1, -1)) < FORWARD
