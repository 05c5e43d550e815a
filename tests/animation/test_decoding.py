"""Protects decoding in groups: which frames see each other, which are left out, and that a mesh shares groups out."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.animation.decoding import decoded
from portrait_jax.autoencoders import AutoencoderKLTemporalDecoder, KLConfig
from portrait_jax.sharding.mesh import make_mesh
from portrait_jax.sharding.placing import Placing
from tests.weights import random_params

FRAMES, GROUP, SIDE = 11, 3, 8
LATENTS = np.random.default_rng(0).normal(size=(2, FRAMES, SIDE, SIDE, 4)).astype(np.float32)


class Recorder:
    """A decoder that says of each frame which group it was in, and keeps how many items each call had."""

    def __init__(self):
        self.calls = []

    def __call__(self, latents):
        self.calls.append(latents.shape[:2])
        mean = latents[..., :1].mean(1, keepdims=True)
        return jnp.broadcast_to(mean, (*latents.shape[:-1], 3))


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_groups_are_the_same_however_many_lie_side_by_side(groups):
    recorder = Recorder()
    found = decoded(recorder, LATENTS, SIDE, GROUP, groups)
    expected = decoded(Recorder(), LATENTS, SIDE, GROUP)
    assert found.shape == (2, FRAMES, SIDE, SIDE, 3) and found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)
    assert recorder.calls == [(2 * groups, GROUP)] * -(-FRAMES // (GROUP * groups))
    assert len(np.unique(found[0, :, 0, 0, 0])) == 4


def test_what_is_not_shown_is_cut_off_and_its_groups_are_left_out():
    recorder, whole = Recorder(), decoded(Recorder(), LATENTS, SIDE, GROUP)
    np.testing.assert_array_equal(decoded(recorder, LATENTS, SIDE, GROUP, shown=slice(4, 8)), whole[:, 4:8])
    assert len(recorder.calls) == 2
    assert decoded(recorder, LATENTS, SIDE, GROUP, shown=slice(4, 4)).shape == (2, 0, SIDE, SIDE, 3)
    assert len(recorder.calls) == 2


def test_each_device_decodes_a_group_of_its_own():
    """A decoder whose frames see each other, on four devices: the frames of one device for a quarter of its operations."""
    module = AutoencoderKLTemporalDecoder(
        KLConfig(block_out_channels=(4, 8), layers_per_block=1, latent_channels=4, norm_groups=2)
    )
    apply = partial(module.apply, method="decode")
    params = random_params(module, LATENTS[:1, :GROUP], method="decode")
    placing, plain, side = Placing(make_mesh(data=4, devices=jax.devices()[:4])), jax.jit(apply), 2 * SIDE
    shared = placing.under(jax.jit(apply))
    found = decoded(partial(shared, placing.params(params)), LATENTS[:1], side, GROUP, placing.parts, placing=placing)
    expected = decoded(partial(plain, params), LATENTS[:1], side, GROUP)
    assert np.abs(found.astype(int) - expected).max() <= 1 and np.ptp(expected) > 50
    given = np.repeat(LATENTS[:1, :GROUP], 4, axis=0)
    operations = plain.lower(params, given).compile().cost_analysis()["flops"]
    with jax.set_mesh(placing.mesh):
        own = jax.jit(apply).lower(placing.params(params), placing.items(given)).compile().cost_analysis()["flops"]
    assert own < 0.3 * operations
