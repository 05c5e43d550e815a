"""Protects: how pictures come in, and which layers come out."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from portrait_jax.encoders.vgg import VGG, VGG19, VGG_FACE, VGGConfig
from tests.weights import tree_of


def test_each_block_gives_its_first_layer_at_half_the_size_of_the_one_before():
    for config, convolutions in ((VGG19, 13), (VGG_FACE, 11)):
        module, picture = VGG(config), jnp.zeros((1, 64, 64, 3))
        seen, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), picture)
        assert [x.shape for x in seen] == [
            (1, 64, 64, 64), (1, 32, 32, 128), (1, 16, 16, 256), (1, 8, 8, 512), (1, 4, 4, 512)
        ]  # fmt: skip
        assert len(variables["params"]) == convolutions


def test_pictures_come_in_as_the_authors_gave_them():
    config = VGGConfig(layers=(1,), channels=(3,), mean=(10.0, 20.0, 30.0))
    kernel = np.zeros((3, 3, 3, 3), np.float32)
    kernel[1, 1] = np.eye(3)
    params = {"conv1_1": {"kernel": jnp.asarray(kernel), "bias": jnp.zeros(3)}}
    assert jax.tree.map(lambda x: x.shape, params) == jax.tree.map(
        lambda x: x.shape, tree_of(VGG(config), np.zeros((1, 16, 16, 3), np.float32))
    )
    red, green, blue = 100, 150, 200
    picture = jnp.broadcast_to(jnp.array([red, green, blue]) / 255.0, (1, 16, 16, 3))
    (seen,) = VGG(config).apply({"params": params}, picture)
    np.testing.assert_allclose(seen[0, 5, 5], [blue - 30, green - 20, red - 10], rtol=1e-5)
