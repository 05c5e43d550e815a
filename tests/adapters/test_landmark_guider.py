"""The guider changes size by its stride and starts as zero."""

import jax
import jax.numpy as jnp
import numpy as np

from portrait_jax.adapters import LandmarkGuider, LandmarkGuiderConfig


def test_folding_pixels_multiplies_the_stride():
    config = LandmarkGuiderConfig((4, 8), 16, patch_size=2)
    out = jax.eval_shape(LandmarkGuider(config).init_with_output, jax.random.key(0), jnp.ones((2, 3, 12, 8, 3)))[0]
    assert config.stride == 4 and out.shape == (2, 3, 3, 2, 16)


def test_number_of_widths_sets_the_stride_and_output_starts_at_zero():
    config = LandmarkGuiderConfig((4, 8), 16)
    guider = LandmarkGuider(config)
    image = jnp.ones((2, 3, 12, 8, 3))
    out, params = jax.jit(guider.init_with_output)(jax.random.key(0, impl="rbg"), image)
    assert config.stride == 2
    assert out.shape == (2, 3, 6, 4, 16)
    assert not np.any(np.asarray(out))
    # The zero convolution still learns.
    grads = jax.jit(jax.grad(lambda p: jnp.sum(guider.apply(p, image))))(params)
    assert np.any(np.asarray(grads["params"]["conv_out"]["kernel"]))
