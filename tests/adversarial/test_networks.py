"""Protects: what the generator listens to, what the discriminator sees, and their full sizes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.adversarial.networks import Discriminator, Generator, PictureConfig, spread
from portrait_jax.errors import ShapeError
from tests.weights import random_params, tree_of

TINY = PictureConfig(channels=(8, 6, 4), style=8, group=2)


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_a_picture_depends_on_its_own_appearance_and_motion_and_on_no_other():
    generator, appearance, motion = Generator(TINY, 5), draw(3, 7), draw(3, 4, seed=1)
    variables = random_params(generator, appearance, motion)
    apply = jax.jit(generator.apply)
    picture = np.asarray(apply(variables, appearance, motion))
    assert picture.shape == (3, TINY.size, TINY.size, 3) == (3, 16, 16, 3) and picture.dtype == np.float32
    for changed in (
        apply(variables, appearance.at[1].add(1.0), motion),
        apply(variables, appearance, motion.at[1].add(1.0)),
    ):
        moved = np.abs(np.asarray(changed) - picture).max((1, 2, 3))
        assert moved[1] > 1e-3 and moved[[0, 2]].max() < 1e-6


def test_every_leaf_of_both_networks_learns():
    generator, discriminator = Generator(TINY, 5), Discriminator(TINY)
    appearance, motion = draw(2, 7), draw(2, 4, seed=1)
    params = {
        "generator": random_params(generator, appearance, motion),
        "discriminator": random_params(discriminator, draw(2, 16, 16, 3), seed=1),
    }

    def loss(params):
        picture = generator.apply(params["generator"], appearance, motion)
        score, blocks = discriminator.apply(params["discriminator"], picture)
        return (score * jnp.arange(1.0, 3.0)).sum() + sum(jnp.square(block).mean() for block in blocks)

    slopes = jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(params))
    assert [jax.tree_util.keystr(path) for path, leaf in slopes if not np.abs(leaf).max() > 0] == []


def test_the_discriminator_gives_one_block_per_halving_and_refuses_another_size():
    discriminator = Discriminator(TINY)
    shapes = jax.eval_shape(discriminator.init_with_output, jax.random.key(0), jnp.zeros((2, 16, 16, 3)))[0]
    assert shapes[0].shape == (2,) and [block.shape for block in shapes[1]] == [(2, 8, 8, 6), (2, 4, 4, 8)]
    with pytest.raises(ShapeError, match="takes 16×16 pixels, not \\(8, 8\\)"):
        tree_of(discriminator, np.zeros((1, 8, 8, 3), np.float32))


def test_spread_is_the_deviation_among_neighbours_and_groups_fit_any_batch():
    x = draw(4, 2, 2, 3)
    found = np.asarray(spread(x, 2))
    assert found.shape == (4, 2, 2, 1)
    pair = np.sqrt(np.asarray(x[2:]).var(0) + 1e-8).mean()
    np.testing.assert_allclose(found[2:], pair, rtol=1e-5)
    np.testing.assert_allclose(spread(x[:3], 2), 1e-4, rtol=1e-3)  # one by one: no spread at all


def test_full_size_draws_256_pixels():
    config = PictureConfig()
    assert config.size == 256
    tree = tree_of(Discriminator(config), np.zeros((4, 256, 256, 3), np.float32))
    count = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
    # As many as StyleGAN2's own discriminator of 256 pixels at this width.
    assert count == 28_864_129 and tree["conv_last"]["kernel"].shape == (3, 3, 513, 512)
    generator = jax.eval_shape(
        Generator(config).init_with_output, jax.random.key(0), jnp.zeros((1, 2048)), jnp.zeros((1, 512))
    )
    assert generator[0].shape == (1, 256, 256, 3)
    assert generator[1]["params"]["mapping_0"]["kernel"].shape == (1024, 512)
