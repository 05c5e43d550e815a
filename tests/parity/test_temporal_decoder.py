"""The autoencoder with temporal decoder equals diffusers' at a small random size."""

from __future__ import annotations

import jax.numpy as jnp
import pytest

from portrait_jax.autoencoders import AutoencoderKLTemporalDecoder, KLConfig
from tests.parity.oracle import (
    assert_parity,
    channels_first,
    channels_last,
    diffusers,
    draw,
    publish,
    randomised,
    torch,
)
from tests.weights import part_of

pytestmark = pytest.mark.parity

TINY, SHORT = KLConfig((64, 64, 64, 64)), KLConfig((64, 64))
FRAMES = 3


def make(config):
    levels = len(config.block_out_channels)
    made = diffusers.AutoencoderKLTemporalDecoder(
        down_block_types=("DownEncoderBlock2D",) * levels,
        block_out_channels=config.block_out_channels,
        layers_per_block=config.layers_per_block,
        latent_channels=4,
    )
    return randomised(made)


@pytest.fixture(scope="module")
def oracle():
    return make(TINY)


def published(oracle, config=TINY):
    module = AutoencoderKLTemporalDecoder(config)
    return publish(oracle.state_dict(), part_of("svd_vae"), module, jnp.zeros((1, 8, 8, 3)))


def test_encoder_equals_diffusers(oracle):
    def call(x):
        posterior = oracle.encode(x).latent_dist
        return torch.cat([posterior.mean, posterior.logvar], 1)

    def apply(params, x, dtype):
        moments = AutoencoderKLTemporalDecoder(TINY, dtype).apply(params, channels_last(x), method="encode")
        return channels_first(jnp.concatenate(moments, -1))

    names = ["quant_conv.weight", "encoder.down_blocks.1.downsamplers.0.conv.weight"]
    assert_parity(oracle, call, apply, draw(1, 3, 32, 32), published(oracle), names)


@pytest.mark.parametrize("config", [TINY, SHORT], ids=["four levels", "two levels"])
def test_decoder_equals_diffusers(config):
    """In bfloat16 at two levels: over the blocks of four, rounding alone takes diffusers' own decoder beyond the bound."""
    oracle = make(config)

    def apply(params, x, dtype):
        clips = channels_last(x)[None]
        return channels_first(AutoencoderKLTemporalDecoder(config, dtype).apply(params, clips, method="decode")[0])

    names = [
        "decoder.mid_block.resnets.0.temporal_res_block.conv1.weight",
        "decoder.up_blocks.1.resnets.0.time_mixer.mix_factor",
    ]
    call = lambda z: oracle.decode(z, num_frames=FRAMES).sample  # noqa: E731
    weights = published(oracle, config)
    assert_parity(oracle, call, apply, draw(FRAMES, 4, 4, 4), weights, names, narrow=config is SHORT)
