"""The preview autoencoder equals diffusers' at a small random size, and has its names at full size."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from portrait_jax.autoencoders import TinyAutoencoder, TinyConfig
from tests.golden import torch_shapes
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


def test_encoder_equals_diffusers(oracle):
    params = variables(oracle.state_dict())
    assert_tree_is_complete(TinyAutoencoder(SMALL), params, jnp.zeros((1, 8, 8, 3)))

    def apply(params, x, dtype):
        return channels_first(TinyAutoencoder(SMALL, dtype).apply(params, channels_last(x), method="encode"))

    names = ["encoder.layers.2.weight", "encoder.layers.3.conv.4.weight"]
    assert_parity(oracle, lambda x: oracle.encode(x).latents, apply, draw(2, 3, 24, 16), params, names)


def test_decoder_equals_diffusers(oracle):
    def apply(params, z, dtype):
        return channels_first(TinyAutoencoder(SMALL, dtype).apply(params, channels_last(z), method="decode"))

    names = ["decoder.layers.0.weight", "decoder.layers.5.weight"]
    params = variables(oracle.state_dict())
    assert_parity(oracle, lambda z: oracle.decode(z).sample, apply, 2 * draw(2, 4, 6, 4), params, names)


def test_full_size_has_the_names_and_shapes_of_diffusers():
    with torch.device("meta"):
        published = {name: tuple(value.shape) for name, value in diffusers.AutoencoderTiny().state_dict().items()}
    made = jax.eval_shape(TinyAutoencoder().init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    assert torch_shapes(made) == published
