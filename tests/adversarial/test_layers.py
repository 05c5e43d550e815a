"""Protects: resizing filters keep what they should, and one shared convolution equals a kernel per item."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.adversarial.layers import EqualConv, EqualDense, ModulatedConv, blur, convolve, upsample
from tests.weights import random_params


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_upsampling_interpolates_and_keeps_a_constant():
    flat = np.asarray(upsample(jnp.ones((1, 6, 6, 2))))
    assert flat.shape == (1, 12, 12, 2)
    np.testing.assert_allclose(flat[:, 1:-1, 1:-1], 1.0, rtol=1e-6)
    ramp = jnp.broadcast_to(jnp.arange(6.0)[None, :, None, None], (1, 6, 6, 1))
    rows = np.asarray(upsample(ramp))[0, 2:-2, 6, 0]
    np.testing.assert_allclose(np.diff(rows), 0.5, rtol=1e-5)
    # Pixel centres: output row i lies at input (i + 0.5) / 2 − 0.5.
    np.testing.assert_allclose(rows, (np.arange(2, 10) + 0.5) / 2 - 0.5, rtol=1e-5)


def test_blurring_removes_the_finest_pattern_and_nothing_of_a_constant():
    stripes = jnp.broadcast_to((-1.0) ** jnp.arange(8)[None, :, None, None], (1, 8, 8, 1))
    assert np.abs(np.asarray(blur(stripes, 2, 1))[:, 2:-2, 2:-2]).max() < 1e-6
    np.testing.assert_allclose(np.asarray(blur(jnp.ones((1, 8, 8, 1)), 2, 1))[:, 2:-2, 2:-2], 1.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("resize", "size", "side"), [("up", 3, 16), ("down", 3, 4), ("down", 1, 4), ("", 3, 8), ("", 1, 8)]
)
def test_a_convolution_resizes_as_it_says_and_keeps_a_constant(resize, size, side):
    kernel = jnp.full((size, size, 1, 1), 1 / size**2)
    out = np.asarray(convolve(jnp.ones((1, 8, 8, 1)), kernel, resize))
    assert out.shape == (1, side, side, 1)
    middle = out[:, side // 2 - 1 : side // 2 + 1, side // 2 - 1 : side // 2 + 1]
    # A transposed 3×3 convolution of ones has 4, 2 or 1 taps at a pixel: the filter evens them out.
    np.testing.assert_allclose(middle, 1.0, rtol=1e-5)


@pytest.mark.parametrize(("resize", "demodulate"), [("", True), ("up", True), ("", False)])
def test_modulation_equals_a_kernel_per_item(resize, demodulate):
    x, style = draw(3, 4, 4, 5), draw(3, 6, seed=1)
    layer = ModulatedConv(7, resize=resize, demodulate=demodulate)
    variables = random_params(layer, x, style)
    params = variables["params"]
    scale = EqualDense(5).apply({"params": params["modulation"]}, style)
    kernel = params["kernel"] * (9 * 5) ** -0.5
    wanted = []
    for item in range(3):
        own = kernel * scale[item][:, None]
        if demodulate:
            own = own / jnp.sqrt((own**2).sum((0, 1, 2)) + 1e-8)
        wanted.append(convolve(x[item : item + 1], own, resize) + params["bias"])
    np.testing.assert_allclose(layer.apply(variables, x, style), jnp.concatenate(wanted), atol=2e-5)


def test_equalised_weights_keep_the_variance_at_the_start():
    x = draw(64, 8, 8, 32)
    layer = EqualConv(16)
    out = layer.apply(jax.jit(layer.init)(jax.random.key(0), x), x)
    assert 0.7 < float(out[:, 1:-1, 1:-1].std()) < 1.3
    dense = EqualDense(64)
    flat = draw(128, 512)
    assert 0.8 < float(dense.apply(dense.init(jax.random.key(1), flat), flat).std()) < 1.2
