"""The causal video autoencoder equals diffusers' at a small random size, whole and in pieces."""

from __future__ import annotations

import jax.numpy as jnp
import pytest

from portrait_jax.autoencoders import CausalAutoencoder, CausalConfig, decode_streamed, encode_streamed
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

# Four groups: with one channel per group a decoder in bfloat16 is at the mercy of rounding (`test_kl.py`).
TINY = CausalConfig((8, 16, 16, 32), layers_per_block=1, norm_groups=4)


def make(config: CausalConfig):
    return diffusers.AutoencoderKLCogVideoX(
        block_out_channels=config.block_out_channels,
        layers_per_block=config.layers_per_block,
        latent_channels=config.latent_channels,
        norm_num_groups=config.norm_groups,
        temporal_compression_ratio=4,
        scaling_factor=config.scaling_factor,
        sample_height=32,
        sample_width=48,
    )


def test_sizes_are_those_of_the_reference():
    made = make(CausalConfig((8, 16, 16, 32), norm_groups=8))
    assert sum(value.numel() for value in made.parameters()) == 909_547


@pytest.fixture(scope="module")
def oracle():
    return randomised(make(TINY))


@pytest.fixture(scope="module")
def published(oracle):
    return publish(
        oracle.state_dict(), part_of("cogvideox_5b_i2v_vae"), CausalAutoencoder(TINY), jnp.zeros((1, 1, 8, 8, 3))
    )


def test_encoding_in_pieces_equals_diffusers(oracle, published):
    """17 frames in two pieces, 9 and 8."""

    def call(x):
        posterior = oracle.encode(x).latent_dist
        return torch.cat([posterior.mean, posterior.logvar], 1)

    def apply(params, x, dtype):
        moments = encode_streamed(CausalAutoencoder(TINY, dtype), params["params"], channels_last(x))
        return channels_first(jnp.concatenate(moments, -1))

    names = ["encoder.down_blocks.0.resnets.0.conv1.conv.weight", "encoder.down_blocks.1.downsamplers.0.conv.weight"]
    assert_parity(oracle, call, apply, draw(1, 3, 17, 16, 24), published, names)


def test_decoding_in_pieces_equals_diffusers(oracle, published):
    """5 latents in two pieces, 3 and 2."""

    def apply(params, x, dtype):
        return channels_first(decode_streamed(CausalAutoencoder(TINY, dtype), params["params"], channels_last(x)))

    names = ["decoder.mid_block.resnets.0.norm1.conv_y.conv.weight", "decoder.up_blocks.0.upsamplers.0.conv.weight"]
    assert_parity(oracle, lambda z: oracle.decode(z).sample, apply, draw(1, 16, 5, 2, 3), published, names)
