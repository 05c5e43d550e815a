"""The guider equals the original's and starts as zero."""

import jax
import jax.numpy as jnp
import numpy as np

from portrait_jax.adapters import LandmarkGuider, LandmarkGuiderConfig
from tests.golden import assert_close, channels_last, flax_params, golden_config, golden_tensors


def test_guider_matches_golden():
    config = golden_config("follow_your_emoji")["guider"]["config"]
    data = golden_tensors("follow_your_emoji", "guider")
    weights = {k.removeprefix("weights."): v for k, v in data.items() if k.startswith("weights.")}
    guider = LandmarkGuider(
        LandmarkGuiderConfig(tuple(config["block_out_channels"]), config["conditioning_embedding_channels"])
    )
    out = jax.jit(guider.apply)(flax_params(weights), channels_last(data["inputs.conditioning"]))
    assert_close(out, channels_last(data["outputs.embedding"]))


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
