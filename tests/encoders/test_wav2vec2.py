"""The speech encoder: lengths, video rate, errors."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.encoders import Wav2Vec2, Wav2Vec2Config, normalise_waveform
from portrait_jax.encoders.wav2vec2 import interpolate
from portrait_jax.errors import AudioError, ConfigError
from tests.weights import random_params

TINY = Wav2Vec2Config(
    conv_channels=(4, 4),
    conv_kernels=(10, 3),
    conv_strides=(5, 2),
    hidden=8,
    layers=2,
    heads=2,
    mlp=16,
    position_kernel=4,
    position_groups=2,
)


@pytest.fixture(scope="module")
def params():
    return random_params(Wav2Vec2(TINY), jnp.zeros((1, 100)))


def test_lengths_are_those_of_the_published_convolutions():
    lengths = {640: 1, 16000: 49, 25600: 79, 160000: 499}
    assert {samples: Wav2Vec2Config().length(samples) for samples in lengths} == lengths
    assert Wav2Vec2Config().shortest == 400
    assert Wav2Vec2Config().length(400) == 1 and Wav2Vec2Config().length(399) < 1


def test_states_have_one_entry_more_than_layers_and_follow_the_video_rate(params):
    samples = jax.random.normal(jax.random.key(0), (2, 100))
    own = jax.jit(Wav2Vec2(TINY).apply)(params, samples)
    assert own.shape == (2, TINY.length(100), 3, 8)
    video = jax.jit(lambda p, x: Wav2Vec2(TINY).apply(p, x, 5))(params, samples)
    assert video.shape == (2, 5, 3, 8)
    same = jax.jit(lambda p, x: Wav2Vec2(TINY).apply(p, x, TINY.length(100)))(params, samples)
    np.testing.assert_allclose(same, own, atol=1e-5)


def test_interpolation_keeps_both_ends_and_straight_lines():
    line = jnp.arange(5.0)[None, :, None]
    for length in (2, 5, 9):
        np.testing.assert_allclose(interpolate(line, length)[0, :, 0], np.linspace(0, 4, length), atol=1e-6)
    assert interpolate(line[:, :1], 3).tolist() == [[[0.0]] * 3]


def test_loudness_and_offset_of_a_clip_do_not_matter():
    wave = jax.random.normal(jax.random.key(1), (1, 500))
    np.testing.assert_allclose(normalise_waveform(0.2 * wave + 0.5), normalise_waveform(wave), atol=1e-4)
    assert not np.asarray(normalise_waveform(jnp.zeros((1, 500)))).any()


def test_mistakes_name_the_remedy(params):
    with pytest.raises(AudioError, match="19 samples are too few for speech features; give 20"):
        Wav2Vec2(TINY).apply(params, jnp.zeros((1, 19)))
    with pytest.raises(ConfigError, match="one entry per layer"):
        Wav2Vec2Config(conv_channels=(4,))
