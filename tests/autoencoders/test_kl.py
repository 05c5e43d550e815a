"""The image autoencoder: published sizes and names, exact shapes, the posterior, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.autoencoders import AutoencoderKL, KLConfig, sample_latent
from portrait_jax.errors import ShapeError
from tests.weights import random_params, shapes, tree_of

SMALL = KLConfig((8, 16), layers_per_block=1, latent_channels=2, norm_groups=4)


def tree(config: KLConfig):
    size = 2 * config.stride
    return tree_of(AutoencoderKL(config), jnp.zeros((1, size, size, 3)))


@pytest.fixture(scope="module")
def params():
    return random_params(AutoencoderKL(SMALL), jnp.zeros((1, 4, 4, 3)))


def test_full_size_is_the_published_autoencoder():
    assert sum(int(np.prod(shape)) for shape in shapes(tree(KLConfig())).values()) == 83_653_863


def test_encoding_and_decoding_change_size_by_the_stride(params):
    module = AutoencoderKL(SMALL)
    image = jax.random.uniform(jax.random.key(0), (2, 8, 12, 3), minval=-1, maxval=1)
    mean, logvar = jax.jit(lambda x: module.apply(params, x, method="encode"))(image)
    assert SMALL.stride == 2
    assert mean.shape == logvar.shape == (2, 4, 6, 2)
    decoded = jax.jit(lambda z: module.apply(params, z, method="decode"))(mean)
    assert decoded.shape == image.shape
    np.testing.assert_allclose(jax.jit(module.apply)(params, image), decoded, atol=1e-4 * float(jnp.abs(decoded).max()))


def test_bfloat16_compute_returns_float32(params):
    image = jnp.zeros((1, 4, 4, 3))
    half, exact = (jax.jit(AutoencoderKL(SMALL, dtype).apply)(params, image) for dtype in (jnp.bfloat16, jnp.float32))
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, exact, atol=0.1 * float(jnp.abs(exact).max()))


def test_mid_attention_can_be_left_out():
    paths = shapes(tree(KLConfig((8,), 1, norm_groups=4, mid_attention=False)))
    assert not any("attentions" in path for path in paths)
    assert not any("samplers" in path for path in paths)


def test_gradients_are_finite_and_reach_every_parameter(params):
    module, image = AutoencoderKL(SMALL), jax.random.normal(jax.random.key(0), (1, 4, 4, 3))

    def loss(p):
        mean, logvar = module.apply(p, image, method="encode")
        latent = sample_latent(jax.random.key(1), mean, logvar)
        return jnp.mean((module.apply(p, latent, method="decode") - image) ** 2)

    grads = jax.tree.leaves(jax.jit(jax.grad(loss))(params))
    assert all(bool(jnp.isfinite(leaf).all()) and bool(leaf.any()) for leaf in grads)


def test_samples_have_the_posterior_mean_and_deviation():
    mean, logvar = jnp.full((1, 64, 64, 1), 3.0), jnp.full((1, 64, 64, 1), 2 * np.log(0.5))
    sample = sample_latent(jax.random.key(0), mean, logvar)
    np.testing.assert_allclose([sample.mean(), sample.std()], [3.0, 0.5], atol=0.03)


def test_size_that_the_stride_does_not_divide_is_a_shape_error(params):
    with pytest.raises(ShapeError, match=r"\(5, 4\) pixels is no multiple of 2"):
        AutoencoderKL(SMALL).apply(params, jnp.zeros((1, 5, 4, 3)), method="encode")
