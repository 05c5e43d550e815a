"""The preview autoencoder equals diffusers' at a small random size, and has its names at full size."""

from __future__ import annotations

import jax.numpy as jnp
import pytest

from portrait_jax.autoencoders import TinyAutoencoder, TinyConfig
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

SMALL = TinyConfig(channels=16, encoder_blocks=(1, 2, 2), decoder_blocks=(2, 2, 1))


@pytest.fixture(scope="module")
def oracle():
    return randomised(
        diffusers.AutoencoderTiny(
            encoder_block_out_channels=(16,) * 3,
            decoder_block_out_channels=(16,) * 3,
            num_encoder_blocks=SMALL.encoder_blocks,
            num_decoder_blocks=SMALL.decoder_blocks,
        )
    )


def published(oracle):
    return publish(oracle.state_dict(), part_of("taesd"), TinyAutoencoder(SMALL), jnp.zeros((1, 8, 8, 3)))


def test_encoder_equals_diffusers(oracle):
    def apply(params, x, dtype):
        return channels_first(TinyAutoencoder(SMALL, dtype).apply(params, channels_last(x), method="encode"))

    names = ["encoder.layers.2.weight", "encoder.layers.3.conv.4.weight"]
    assert_parity(oracle, lambda x: oracle.encode(x).latents, apply, draw(2, 3, 24, 16), published(oracle), names)


def test_decoder_equals_diffusers(oracle):
    def apply(params, z, dtype):
        return channels_first(TinyAutoencoder(SMALL, dtype).apply(params, channels_last(z), method="decode"))

    names = ["decoder.layers.0.weight", "decoder.layers.5.weight"]
    assert_parity(oracle, lambda z: oracle.decode(z).sample, apply, 2 * draw(2, 4, 6, 4), published(oracle), names)


def test_full_size_has_the_names_and_shapes_of_diffusers():
    with torch.device("meta"):
        expected = {name: tuple(value.shape) for name, value in diffusers.AutoencoderTiny().state_dict().items()}
    assert part_of("taesd").stored() == expected
