"""Protects: the size of ResNet-50, and that pictures do not depend on each other."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from portrait_jax.encoders.resnet import ResNet, ResNetConfig
from tests.weights import random_params, tree_of

TINY = ResNetConfig(layers=(2, 1), channels=(2, 3))


def test_the_full_size_is_resnet_50_without_its_classifier():
    tree = tree_of(ResNet(), np.zeros((1, 224, 224, 3), np.float32))
    counts = {True: 0, False: 0}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        counts["running" in jax.tree_util.keystr(path)] += int(np.prod(leaf.shape))
    # torchvision's resnet50 has 25 557 032 parameters, 2 049 000 of them in fc, and 53 120 stored statistics.
    assert counts == {False: 23_508_032, True: 53_120}
    assert ResNetConfig().width == 2048


def test_a_picture_has_one_vector_whatever_stands_beside_it():
    pictures = jnp.asarray(np.random.default_rng(0).uniform(size=(3, 32, 32, 3)), jnp.float32)
    variables = random_params(ResNet(TINY), pictures)
    variables = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.abs(leaf) + 0.5 if "running_var" in jax.tree_util.keystr(path) else leaf, variables
    )
    apply = jax.jit(ResNet(TINY).apply)
    found = apply(variables, pictures)
    assert found.shape == (3, TINY.width) and found.dtype == jnp.float32
    np.testing.assert_allclose(apply(variables, pictures.at[:2].set(0.5))[2], found[2], rtol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 0
