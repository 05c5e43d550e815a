"""The temporal decoder at a small size: shapes, that neighbouring frames matter, and what it has not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.autoencoders import AutoencoderKLTemporalDecoder, KLConfig
from portrait_jax.errors import ConfigError
from tests.weights import random_params

SMALL = KLConfig((8, 8), layers_per_block=2, latent_channels=2, norm_groups=4)
MODULE = AutoencoderKLTemporalDecoder(SMALL)


def test_a_frame_is_decoded_with_its_neighbours_and_encoded_alone():
    params = random_params(MODULE, jnp.zeros((1, 4, 4, 3)))
    image = jax.random.uniform(jax.random.key(0), (3, 8, 12, 3), minval=-1)
    mean, logvar = jax.jit(lambda x: MODULE.apply(params, x, method="encode"))(image)
    assert mean.shape == logvar.shape == (3, 4, 6, 2)
    decode = jax.jit(lambda z: MODULE.apply(params, z, method="decode"))
    video = decode(mean[None])
    assert video.shape == (1, 3, 8, 12, 3) and video.dtype == jnp.float32
    assert np.abs(decode(mean[None].at[:, 2].add(1.0)) - video)[0, 1].max() > 1e-4


def test_settings_of_the_frame_by_frame_decoder_are_refused():
    with pytest.raises(ConfigError, match="no patch_size and no shortcuts"):
        jax.eval_shape(
            AutoencoderKLTemporalDecoder(KLConfig((8,), patch_size=2)).init, jax.random.key(0), jnp.zeros((1, 4, 4, 3))
        )
