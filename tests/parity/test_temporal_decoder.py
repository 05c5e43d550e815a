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

# Two channels per norm group: with one, a decoder in bfloat16 is at the mercy of rounding (`test_kl.py`).
TINY = KLConfig((64, 64, 64, 64))
FRAMES = 3


@pytest.fixture(scope="module")
def oracle():
    levels = len(TINY.block_out_channels)
    made = diffusers.AutoencoderKLTemporalDecoder(
        down_block_types=("DownEncoderBlock2D",) * levels,
        block_out_channels=TINY.block_out_channels,
        layers_per_block=TINY.layers_per_block,
        latent_channels=4,
    )
    return randomised(made)


def published(oracle):
    return publish(oracle.state_dict(), part_of("svd_vae"), AutoencoderKLTemporalDecoder(TINY), jnp.zeros((1, 8, 8, 3)))


def test_encoder_equals_diffusers(oracle):
    def call(x):
        posterior = oracle.encode(x).latent_dist
        return torch.cat([posterior.mean, posterior.logvar], 1)

    def apply(params, x, dtype):
        moments = AutoencoderKLTemporalDecoder(TINY, dtype).apply(params, channels_last(x), method="encode")
        return channels_first(jnp.concatenate(moments, -1))

    names = ["quant_conv.weight", "encoder.down_blocks.1.downsamplers.0.conv.weight"]
    assert_parity(oracle, call, apply, draw(1, 3, 32, 32), published(oracle), names)


def test_decoder_equals_diffusers(oracle):
    def apply(params, x, dtype):
        clips = channels_last(x)[None]
        return channels_first(AutoencoderKLTemporalDecoder(TINY, dtype).apply(params, clips, method="decode")[0])

    names = [
        "decoder.mid_block.resnets.0.temporal_res_block.conv1.weight",
        "decoder.up_blocks.1.resnets.0.time_mixer.mix_factor",
    ]
    call = lambda z: oracle.decode(z, num_frames=FRAMES).sample  # noqa: E731
    assert_parity(oracle, call, apply, draw(FRAMES, 4, 4, 4), published(oracle), names, half=6e-2)
