"""Protects caching inside the networks: with features of the same step a partial run gives what the whole one does, for less."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from launch.benchmarks.flops import flops
from portrait_jax.backbones.cogvideox import CogVideoX, CogVideoXConfig
from portrait_jax.backbones.svd_unet import SVDUNet, SVDUNetConfig
from portrait_jax.backbones.unet import UNet, UNetConfig
from portrait_jax.conditioning import Conditioning, FeatureCache
from portrait_jax.errors import ConfigError
from portrait_jax.nn.slots import level_residual_slot, skip_residual_slots
from portrait_jax.nn.temporal import TemporalConfig
from tests.weights import random_params

X = (2, 3, 9, 9, 2)
"""An odd size, which the decoder must come back to."""
LEVELS = {
    "in_channels": 2, "out_channels": 2, "block_out_channels": (4, 8, 8), "layers_per_block": 1,
    "attention_levels": (True, False, False), "norm_groups": 2,
}  # fmt: skip
NETWORKS = {
    "unet": UNet(
        UNetConfig(**LEVELS, num_heads=2, context_dim=3, temporal=TemporalConfig(num_heads=2, max_length=4, norm_groups=2)),
        (level_residual_slot(), *skip_residual_slots()),
    ),
    "svd": SVDUNet(SVDUNetConfig(**LEVELS, num_heads=(1, 2, 2), context_dim=3, id_dim=4)),
}  # fmt: skip


def noise(shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def residuals():
    """Of the encoder's levels, and of its skips and the middle."""
    widths, sizes = (4, 8, 8), (9, 5, 3)
    levels = tuple(noise((2, 3, s, s, c), 3 + i) for i, (c, s) in enumerate(zip(widths, sizes)))
    skips = [(4, 9), (4, 9), (4, 5), (8, 5), (8, 3), (8, 3), (8, 3)]
    return {"level_residuals": levels, "skip_residuals": tuple(noise((2, 3, s, s, c), 9) for c, s in skips)}


def told(name):
    return Conditioning(image_tokens=noise((2, 2, 3), 1), **(residuals() if name == "unet" else {}))


@pytest.mark.parametrize(("name", "depth"), [("unet", 1), ("unet", 4), ("svd", 3)])
def test_a_partial_unet_gives_what_the_whole_one_does_from_its_features(name, depth):
    """At depth 3 and 4 some levels run in part and some whole."""
    network, x, time = NETWORKS[name], noise(X), jnp.array([3.0, 5.0])
    params = random_params(network, x, time, told(name))

    @jax.jit
    def run(x, deep):
        return network.apply(params, x, time, told(name).replace(cache=FeatureCache(depth, deep)))

    plain, deep = run(x, None)
    again, kept = run(x, deep)
    np.testing.assert_allclose(again, plain, atol=2e-6)
    np.testing.assert_array_equal(kept, deep)
    assert np.abs(run(x, deep + 1)[0] - plain).max() > 1e-3, "the features are not read"


def test_the_fewer_layers_run_the_fewer_products_are_taken():
    network, x = NETWORKS["svd"], noise(X)
    params = jax.eval_shape(network.init, jax.random.key(0), x, jnp.zeros(2), told("svd"))

    def cost(depth, deep=None):
        cache = None if depth is None else FeatureCache(depth, deep)
        run = lambda params, x: network.apply(params, x, jnp.zeros(2), told("svd").replace(cache=cache))  # noqa: E731
        return flops(jax.make_jaxpr(run)(params, x))

    shapes = {1: (9, 4), 2: (9, 8), 4: (5, 8)}
    partial = [cost(depth, jnp.zeros((2, 3, side, side, width))) for depth, (side, width) in shapes.items()]
    whole = cost(None)
    assert cost(1) == whole and partial == sorted(partial) and partial[0] < whole / 3 and partial[-1] < whole


def test_a_depth_that_leaves_nothing_to_keep_is_named():
    network = UNet(replace(NETWORKS["unet"].config, temporal=None))
    for depth in (0, 6):
        with pytest.raises(ConfigError, match=f"cache_depth {depth} must be 1 to 5: this decoder has 6 layers"):
            jax.eval_shape(
                lambda depth=depth: network.init(
                    jax.random.key(0), jnp.zeros(X), jnp.zeros(2), Conditioning(cache=FeatureCache(depth))
                )
            )


def test_a_transformer_adds_what_its_blocks_added_before():
    config = CogVideoXConfig(
        layers=3,
        heads=2,
        head_dim=16,
        in_channels=4,
        out_channels=4,
        text_dim=6,
        text_tokens=3,
        time_dim=8,
        grid=(2, 2, 2),
    )
    network, x, time = CogVideoX(config), noise((1, 2, 4, 4, 4)), jnp.array([7.0])
    given = Conditioning(text=noise((1, 3, 6), 1))
    params = random_params(network, x, time, given)

    def run(cache, x):
        return network.apply(params, x, time, given.replace(cache=cache))

    plain = jax.jit(lambda x: run(None, x))(x)
    out, added = jax.jit(lambda x: run(FeatureCache(1), x))(x)
    again, kept = jax.jit(lambda x, added: run(FeatureCache(1, added), x))(x, added)
    np.testing.assert_allclose(out, plain, atol=1e-6)
    np.testing.assert_allclose(again, plain, atol=1e-5)
    np.testing.assert_array_equal(kept, added)
    whole, partial = (
        flops(jax.make_jaxpr(lambda x, deep=deep: run(FeatureCache(1, deep), x))(x)) for deep in (None, added)
    )
    assert added.shape == (1, 8, 32) and partial < whole / 5
