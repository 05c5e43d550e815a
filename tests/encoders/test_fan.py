"""The motion encoder at a small size: shapes, what fusion adds, the latent that gradients reach, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.encoders.fan import FANConfig, FANMotionEncoder
from portrait_jax.errors import ConfigError, ShapeError
from tests.weights import random_params

SMALL = FANConfig(
    image_size=32, channels=(8, 8, 16), depth=2, attention_dim=64, attention_heads=2, heatmaps=4, latent_dim=12,
    tokens=3, box_dim=16, norm_groups=4,
)  # fmt: skip
MODULE = FANMotionEncoder(SMALL)


@pytest.fixture(scope="module")
def params():
    return random_params(MODULE, jnp.zeros((1, 32, 32, 3)), jnp.zeros((1, 3)))


def test_faces_of_clips_become_tokens_that_depend_on_face_and_box(params):
    faces = jax.random.uniform(jax.random.key(0), (1, 2, 32, 32, 3), minval=-1)
    box = jnp.broadcast_to(jnp.array([0.0, 0.0, 1.0]), (1, 2, 3))
    run = jax.jit(MODULE.apply)
    tokens = run(params, faces, box)
    assert tokens.shape == (1, 2, SMALL.tokens, SMALL.token_dim) and tokens.dtype == jnp.float32
    assert np.abs(tokens[0, 0] - tokens[0, 1]).max() > 1e-4
    assert np.abs(run(params, faces, box + 0.5) - tokens).max() > 1e-4


def test_equal_latents_in_equal_places_give_equal_tokens(params):
    fuse = jax.jit(lambda *args: MODULE.apply(params, *args, method="fuse"))
    latent, box = jnp.ones((2, 12)), jnp.ones((2, 3))
    tokens = fuse(latent, box)
    np.testing.assert_array_equal(tokens[0], tokens[1])


def test_other_sizes_are_refused(params):
    with pytest.raises(ShapeError, match="takes 32×32 pixels, not .40, 32."):
        jax.eval_shape(lambda: MODULE.apply(params, jnp.zeros((1, 40, 32, 3)), jnp.zeros((1, 3))))
    with pytest.raises(ConfigError, match="multiple of 8"):
        FANConfig(image_size=100)
    with pytest.raises(ConfigError, match="5 tokens do not divide"):
        FANConfig(tokens=5)
