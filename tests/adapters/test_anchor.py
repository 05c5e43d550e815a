"""Protects the statistics of a UNet's features: where they are taken, and that told ones are what features are brought to."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from portrait_jax.adapters.anchor import COLLECTION, anchor_slot, measured, site_name
from portrait_jax.backbones.unet import UNet, UNetConfig, layer_sites
from portrait_jax.conditioning import Anchor, Conditioning
from portrait_jax.nn.temporal import TemporalConfig

CONFIG = UNetConfig(
    in_channels=4,
    block_out_channels=(8, 16),
    layers_per_block=1,
    attention_levels=(True, False),
    num_heads=2,
    context_dim=None,
    norm_groups=4,
    temporal=TemporalConfig(num_heads=2, max_length=8, norm_groups=4),
)
SITES = {site_name(site): site.channels for site in layer_sites(CONFIG)}
FREE = jnp.array([[0.0, 1.0, 1.0]])


def told(statistics, strength):
    return Conditioning(anchor=Anchor(statistics, FREE, jnp.full(1, strength)))


def blank():
    return {name: jnp.zeros((1, 2, channels)) for name, channels in SITES.items()}


def test_every_layer_is_measured_and_brought_to_what_is_told():
    net, x = UNet(CONFIG, (anchor_slot(),)), jax.random.normal(jax.random.key(0), (1, 3, 8, 8, 4))
    params = net.init(jax.random.key(1), x, jnp.zeros(1))["params"]
    params = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(2), leaf.shape), params)

    @jax.jit
    def run(x, conditioning):
        out, sown = net.apply({"params": params}, x, jnp.ones(1), conditioning, mutable=[COLLECTION])
        return out, measured(sown[COLLECTION])

    plain = net.apply({"params": params}, x, jnp.ones(1))
    out, own = run(x, told(blank(), 0.0))
    np.testing.assert_allclose(out, plain, atol=1e-5)
    assert {name: leaf.shape for name, leaf in own.items()} == {name: (1, 2, n) for name, n in SITES.items()}
    # Brought to what it is, nothing changes; the first layer is the same, whatever it is then brought to.
    again, _ = run(x, told(own, 1.0))
    np.testing.assert_allclose(again, plain, atol=1e-3)
    moved, others = run(x, told(jax.tree.map(lambda leaf: 2 * leaf + 1, own), 1.0))
    assert np.abs(moved - plain)[:, 1:].max() > 1e-2
    first, *later = SITES
    np.testing.assert_allclose(others[first], own[first], atol=1e-5)
    assert all(np.abs(others[name] - own[name]).max() > 1e-3 for name in later)


def test_it_is_behind_the_temporal_modules_and_has_no_parameters():
    with_slot, without = (UNet(CONFIG, slots) for slots in ((anchor_slot(),), ()))
    x = jnp.zeros((1, 3, 8, 8, 4))
    shapes = [
        jax.eval_shape(lambda net=net: net.init(jax.random.key(0), x, jnp.zeros(1))) for net in (with_slot, without)
    ]
    assert jax.tree.map(jnp.shape, shapes[0]) == jax.tree.map(jnp.shape, shapes[1])
    style = with_slot._style(use_temporal=True)
    assert [slot.name for slot in style.slots][-2:] == [CONFIG.temporal.name, "anchor"]
