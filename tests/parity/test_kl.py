"""The image autoencoder equals diffusers' at a small random size."""

from __future__ import annotations

import jax.numpy as jnp
import pytest

from portrait_jax.autoencoders import AutoencoderKL, KLConfig
from tests.parity.oracle import (
    assert_parity,
    assert_tree_is_complete,
    channels_first,
    channels_last,
    diffusers,
    draw,
    randomised,
    torch,
    variables,
)

pytestmark = pytest.mark.parity

TINY = KLConfig((32, 32, 64, 64))


@pytest.fixture(scope="module")
def oracle():
    made = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=TINY.block_out_channels,
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=32,
    )
    assert sum(value.numel() for value in made.parameters()) == 1_399_879
    return randomised(made)


def test_encoder_equals_diffusers(oracle):
    params = variables(oracle.state_dict())
    assert_tree_is_complete(AutoencoderKL(TINY), params, jnp.zeros((1, 8, 8, 3)))

    def call(x):
        posterior = oracle.encode(x).latent_dist
        return torch.cat([posterior.mean, posterior.logvar], 1)

    def apply(params, x, dtype):
        moments = AutoencoderKL(TINY, dtype).apply(params, channels_last(x), method="encode")
        return channels_first(jnp.concatenate(moments, -1))

    names = ["encoder.mid_block.attentions.0.to_q.weight", "encoder.down_blocks.1.downsamplers.0.conv.weight"]
    assert_parity(oracle, call, apply, draw(1, 3, 64, 64), params, names)


def test_decoder_equals_diffusers(oracle):
    def apply(params, x, dtype):
        return channels_first(AutoencoderKL(TINY, dtype).apply(params, channels_last(x), method="decode"))

    names = ["post_quant_conv.weight", "decoder.up_blocks.2.resnets.0.conv_shortcut.weight"]
    params = variables(oracle.state_dict())
    assert_parity(oracle, lambda z: oracle.decode(z).sample, apply, draw(1, 4, 8, 8), params, names)
