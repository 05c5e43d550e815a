"""Convolutions and their padding, and pixels folded into channels."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from portrait_jax.nn.conv import PointwiseConv, conv3x3, fold, unfold, unshuffle
from tests.weights import random_params


def test_pointwise_convolution_is_a_convolution():
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 5))
    params = random_params(PointwiseConv(6), x)
    expected = nn.Conv(6, (1, 1)).apply(params, x)
    np.testing.assert_allclose(PointwiseConv(6).apply(params, x), expected, atol=1e-5)


def test_a_strided_convolution_is_centred_as_in_pytorch():
    """PyTorch pads one pixel on every side; SAME would pad only below and on the right for an even size."""
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    centre = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1.0)
    params = {"params": {"kernel": centre, "bias": jnp.zeros(1)}}
    out = conv3x3(1, stride=2, dtype=jnp.float32, name="conv").apply(params, x)
    np.testing.assert_array_equal(out[0, :, :, 0], [[0, 2], [8, 10]])


def test_folding_takes_squares_and_unfolding_gives_them_back():
    x = jnp.arange(2.0 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    folded = fold(x, 2)
    assert folded.shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(folded[1, 1, 2].reshape(2, 2, 3), x[1, 2:4, 4:6])
    np.testing.assert_array_equal(unfold(folded, 2), x)


def test_unshuffling_keeps_the_pixels_of_a_colour_together():
    x = jnp.arange(2.0 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    shuffled = unshuffle(x, 2)
    np.testing.assert_array_equal(shuffled[1, 1, 2].reshape(3, 2, 2), jnp.moveaxis(x[1, 2:4, 4:6], -1, 0))


def test_a_zero_convolution_starts_at_zero_and_another_does_not():
    x = jnp.ones((1, 2, 2, 3))
    for zero in (True, False):
        params = PointwiseConv(4, zero=zero).init(jax.random.key(0), x)["params"]
        assert bool(params["kernel"].any()) is not zero
