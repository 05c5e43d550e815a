"""The causal autoencoder is the original's: encoding at once, decoding at once and in pieces."""

import functools

import jax
import jax.numpy as jnp
import pytest

from portrait_jax.autoencoders import CausalAutoencoder, decode_streamed
from tests.golden import assert_close, channels_last
from tests.systems.hallo3.original import autoencoder_config, case
from tests.weights import imported, part_of, tree_of


@functools.cache
def autoencoder():
    """Module and parameters."""
    module = CausalAutoencoder(autoencoder_config())
    tree = tree_of(module, jnp.zeros((1, 1, module.config.stride, module.config.stride, 3)))
    return module, imported(tree, case("vae").weights(), part_of("cogvideox_5b_i2v_vae_original"))


def test_latents_match_golden():
    module, params = autoencoder()
    tensors = case("vae").tensors
    names = sorted({name.split(".")[0] for name in tensors if name.startswith("enc")})
    assert names
    encode = jax.jit(functools.partial(module.apply, method="encode"))
    for name in names:
        video = channels_last(tensors[f"{name}.in"])
        mean, logvar = encode(params, video)
        assert_close(jnp.concatenate([mean, logvar], axis=-1), channels_last(tensors[f"{name}.out.moments"]))
        drawn = mean + jnp.exp(0.5 * logvar) * channels_last(tensors[f"{name}.in.eps"])
        assert_close(drawn, channels_last(tensors[f"{name}.out.z"]))
        assert mean.shape[1] == module.config.latent_frames(video.shape[1])


@pytest.mark.parametrize("name", ["dec_whole", "dec_t1"])
def test_decoding_at_once_matches_golden(name):
    module, params = autoencoder()
    tensors = case("vae").tensors
    latent = channels_last(tensors[f"{name}.in"] if f"{name}.in" in tensors else tensors["dec.in"])
    run = jax.jit(functools.partial(module.apply, method="decode"))
    assert_close(run(params, latent), channels_last(tensors[f"{name}.out"]))


def test_decoding_in_pieces_matches_golden():
    module, params = autoencoder()
    tensors = case("vae").tensors
    run = jax.jit(functools.partial(decode_streamed, module))
    assert_close(run(params["params"], channels_last(tensors["dec.in"])), channels_last(tensors["dec_chunked.out"]))
