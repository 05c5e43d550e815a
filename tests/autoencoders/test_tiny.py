"""The preview autoencoder: published size, names, sizes of images, errors."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.autoencoders import TinyAutoencoder, TinyConfig
from portrait_jax.errors import ShapeError
from tests.weights import random_params, shapes, tree_of

SMALL = TinyConfig(channels=4, encoder_blocks=(1, 1), decoder_blocks=(1, 1))


@pytest.fixture(scope="module")
def params():
    return random_params(TinyAutoencoder(SMALL), jnp.zeros((1, 4, 4, 3)))


def test_full_size_is_that_of_the_published_file():
    made = shapes(tree_of(TinyAutoencoder(), jnp.zeros((1, 8, 8, 3))))
    counts = dict.fromkeys(("encoder", "decoder"), 0)
    for path, shape in made.items():
        counts[path.split("/")[0]] += int(np.prod(shape))
    assert counts == {"encoder": 1_222_532, "decoder": 1_222_531}
    # Doubling and the first ReLU have numbers but no parameters.
    assert "decoder/layers_1/kernel" not in made and made["decoder/layers_6/kernel"] == (3, 3, 64, 64)
    assert made["decoder/layers_18/kernel"] == (3, 3, 64, 3) and made["encoder/layers_14/kernel"] == (3, 3, 64, 4)


def test_previews_have_the_size_of_the_image(params):
    module, image = TinyAutoencoder(SMALL), jax.random.uniform(jax.random.key(0), (2, 6, 4, 3), minval=-1)
    latent = jax.jit(lambda x: module.apply(params, x, method="encode"))(image)
    assert latent.shape == (2, 3, 2, 4)
    decoded = jax.jit(lambda z: module.apply(params, z, method="decode"))(latent)
    assert decoded.shape == image.shape and decoded.dtype == jnp.float32
    np.testing.assert_allclose(jax.jit(module.apply)(params, image), decoded, atol=1e-4 * np.abs(decoded).max())


def test_wild_latents_decode_like_those_at_the_edge_of_the_range(params):
    decode = jax.jit(lambda z: TinyAutoencoder(SMALL).apply(params, z, method="decode"))
    wild, edge = decode(jnp.full((1, 2, 2, 4), 1e4)), decode(jnp.full((1, 2, 2, 4), 40.0))
    np.testing.assert_allclose(wild, edge, rtol=1e-4, atol=1e-4)


def test_size_that_the_stride_does_not_divide_is_a_shape_error(params):
    with pytest.raises(ShapeError, match="no multiple of 2"):
        TinyAutoencoder(SMALL).apply(params, jnp.zeros((1, 5, 4, 3)), method="encode")
