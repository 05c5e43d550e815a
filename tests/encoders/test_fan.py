"""The motion encoder at a small size: shapes, what fusion adds, the latent that gradients reach, errors."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.encoders.fan import IN_PLACE, FANConfig, FANMotionEncoder
from portrait_jax.errors import ConfigError, ShapeError
from tests.tiny import leaves
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


def test_an_encoder_trained_from_nothing_has_no_statistics_and_never_dies():
    """Through one channel everything goes: below zero, a ReLU would leave neither a latent nor a slope."""
    fresh = FANMotionEncoder(replace(SMALL, norm_groups=2, batch_norms=False, leak=0.2))
    params = random_params(fresh, jnp.zeros((1, 32, 32, 3)), jnp.zeros((1, 3)))
    assert not any("running" in path for path in leaves(params))
    params["params"]["model"]["conv6"]["bias"] -= 100.0
    faces = jax.random.uniform(jax.random.key(0), (2, 32, 32, 3), minval=-1)

    @jax.jit
    def spread(params, faces):
        latents = fresh.apply(params, faces, method="encode")
        return ((latents[0] - latents[1]) ** 2).sum()

    assert spread(params, faces) > 0
    assert np.abs(jax.grad(spread)(params, faces)["params"]["model"]["conv1"]["kernel"]).max() > 0


def test_gains_are_what_latents_and_boxes_are_multiplied_by_where_they_meet(params):
    strong = FANMotionEncoder(replace(SMALL, latent_gain=5.0, box_gain=20.0))
    place, keys = jnp.array(IN_PLACE), jax.random.split(jax.random.key(0))
    latent, box = jax.random.normal(keys[0], (3, 12)), place + 0.1 * jax.random.normal(keys[1], (3, 3))
    told = strong.apply(params, latent, box, method="fuse")
    far = place + 20 * (box - place)
    np.testing.assert_allclose(told, MODULE.apply(params, 5 * latent, far, method="fuse"), atol=1e-5)
    assert np.abs(told - MODULE.apply(params, latent, box, method="fuse")).max() > 1e-2
