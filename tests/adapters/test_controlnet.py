"""The ControlNet: one residual per skip, silent at the start, errors."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.adapters import ControlNet, ControlNetConfig
from portrait_jax.backbones.unet import UNet, UNetConfig
from portrait_jax.conditioning import Conditioning
from portrait_jax.errors import ShapeError
from portrait_jax.nn.slots import skip_residual_slots
from tests.weights import random_params

TINY = ControlNetConfig(
    UNetConfig(
        block_out_channels=(8, 16), layers_per_block=1, attention_levels=(True, False), num_heads=2, context_dim=6,
        norm_groups=4,
    ),
    hint_channels=(4, 8),
)  # fmt: skip
ARGUMENTS = jnp.ones((2, 3, 4, 4, 4)), jnp.array([3, 700]), jnp.ones((2, 3, 8, 8, 3)), jnp.ones((2, 5, 6))


def test_a_new_controlnet_changes_nothing_and_a_trained_one_gives_a_residual_per_skip_and_the_middle():
    module = ControlNet(TINY)
    params = random_params(module, *ARGUMENTS)
    zeros = {name: jax.tree.map(jnp.zeros_like, leaf) if name.startswith("controlnet_") else leaf
             for name, leaf in params["params"].items()}  # fmt: skip
    run = jax.jit(module.apply)
    trained, new = run(params, *ARGUMENTS), run({"params": zeros}, *ARGUMENTS)
    assert [x.shape for x in trained] == [(2, 3, 4, 4, 8)] * 2 + [(2, 3, 2, 2, w) for w in (8, 16, 16)]
    assert all(np.abs(x).max() > 1e-2 for x in trained)
    assert not any(np.asarray(x).any() for x in new)


def test_a_backbone_takes_all_residuals_of_its_controlnet():
    x, timestep, _, context = ARGUMENTS
    residuals = ControlNet(TINY).apply(random_params(ControlNet(TINY), *ARGUMENTS), *ARGUMENTS)
    conditioning = Conditioning(image_tokens=context, skip_residuals=residuals)
    backbone = UNet(TINY.unet, skip_residual_slots())
    params = random_params(backbone, x, timestep, conditioning)
    run = jax.jit(lambda given: backbone.apply(params, x, timestep, conditioning.replace(skip_residuals=given)))
    plain = run(tuple(jnp.zeros_like(y) for y in residuals))
    for i in range(len(residuals)):
        alone = tuple(y if i == j else jnp.zeros_like(y) for j, y in enumerate(residuals))
        assert np.abs(run(alone) - plain).max() > 1e-3


def test_zero_convolutions_start_at_zero():
    made = jax.jit(ControlNet(TINY).init)(jax.random.key(0, impl="rbg"), *ARGUMENTS)["params"]
    starts = {
        name: leaf["kernel"] for name, leaf in made.items() if name.startswith(("controlnet_down", "controlnet_mid"))
    }
    assert len(starts) == 5 and not any(np.asarray(kernel).any() for kernel in starts.values())
    assert not np.asarray(made["controlnet_cond_embedding"]["conv_out"]["kernel"]).any()


def test_a_picture_that_does_not_fit_the_latents_is_a_shape_error():
    x, timestep, image, context = ARGUMENTS
    with pytest.raises(ShapeError, match="give 2 pixels per latent pixel"):
        ControlNet(TINY).init(jax.random.key(0), x, timestep, image[:, :, :4], context)
