"""An inflated image autoencoder gives what the image autoencoder gave, frame by frame."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.autoencoders import AutoencoderKL, CausalAutoencoder, CausalConfig, KLConfig
from portrait_jax.autoencoders.inflate import inflated
from portrait_jax.errors import CheckpointError
from tests.weights import random_params, shapes, tree_of

SIZES = {
    "block_out_channels": (4, 6, 8), "layers_per_block": 1, "latent_channels": 3, "norm_groups": 2, "patch_size": 2,
    "shortcuts": True,
}  # fmt: skip
PICTURES = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))


def image(**changes):
    module = AutoencoderKL(KLConfig(**{**SIZES, "mid_attention": False, **changes}))
    return module, random_params(module, PICTURES)["params"]


@pytest.mark.parametrize("shortcuts", [True, False])
def test_a_picture_is_encoded_and_decoded_as_before(shortcuts):
    module, params = image(shortcuts=shortcuts)
    # What is added before a convolution ends at the edge, where that sees zeros: the one thing that cannot be joined.
    params["post_quant_conv"]["bias"] = jnp.zeros_like(params["post_quant_conv"]["bias"])
    video = CausalAutoencoder(CausalConfig(**{**SIZES, "shortcuts": shortcuts}))
    made = jax.tree.map(jnp.asarray, inflated(params))
    assert shapes(made) == shapes(tree_of(video, PICTURES[:, None]))
    (mean, logvar), decoded = (
        jax.jit(lambda x, method=method: module.apply({"params": params}, x, method=method))(given)
        for method, given in (("encode", PICTURES), ("decode", jnp.ones((2, 2, 2, 3))))
    )
    found, spread = jax.jit(lambda x: video.apply({"params": made}, x, method="encode"))(PICTURES[:, None])
    np.testing.assert_allclose(found[:, 0], mean, atol=1e-4)
    np.testing.assert_allclose(spread[:, 0], logvar, atol=1e-4)
    again = jax.jit(lambda z: video.apply({"params": made}, z, method="decode"))(jnp.ones((2, 1, 2, 2, 3)))
    np.testing.assert_allclose(again[:, 0], decoded, atol=1e-4)
    assert np.ptp(decoded) > 0.1


def test_what_is_added_to_latents_is_joined_too():
    module, params = image()
    video, made = CausalAutoencoder(CausalConfig(**SIZES)), inflated(params)
    kernel, bias = (made["decoder"]["conv_in"]["conv"][name] for name in ("kernel", "bias"))
    latent = np.asarray(jax.random.normal(jax.random.key(1), (3,)))
    flat = jax.tree.map(np.asarray, params)
    told = latent @ flat["post_quant_conv"]["kernel"][0, 0] + flat["post_quant_conv"]["bias"]
    expected = np.einsum("c,yxco->o", told, flat["decoder"]["conv_in"]["kernel"]) + flat["decoder"]["conv_in"]["bias"]
    np.testing.assert_allclose(np.einsum("c,tyxco->o", latent, kernel) + bias, expected, atol=1e-4)
    assert video.config.stride == module.config.stride == 8


def test_attention_cannot_be_inflated():
    with pytest.raises(CheckpointError, match="has no attention, and this one has: .*mid_block/attentions_0"):
        inflated(image(mid_attention=True)[1])
