"""One forward of the UNet at its published size equals PyTorch's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from portrait_jax.backbones.unet import UNet, UNetConfig
from portrait_jax.conditioning import Conditioning
from tests.parity.oracle import channels_first, channels_last, diffusers, draw, publish, relative, torch
from tests.weights import part_of

pytestmark = [pytest.mark.parity, pytest.mark.slow, pytest.mark.usefixtures("optimised")]


def test_full_size_unet_equals_diffusers():
    """About 12 GB of memory and two minutes on two cores."""
    torch.manual_seed(0)
    oracle = diffusers.UNet2DConditionModel(
        sample_size=64, block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=768, attention_head_dim=8
    ).eval()
    assert sum(value.numel() for value in oracle.parameters()) == 859_520_964
    text, x = draw(1, 77, 768, seed=2), draw(1, 4, 64, 64)
    with torch.no_grad():
        expected = oracle(torch.tensor(x), 501, torch.tensor(text)).sample.numpy()
    module, latents = UNet(UNetConfig()), channels_last(x)[:, None]
    params = publish(oracle.state_dict(), part_of("sd15_unet"), module, latents, jnp.zeros(1)).variables
    del oracle
    conditioning = Conditioning(image_tokens=jnp.asarray(text))
    out = jax.jit(module.apply)(params, latents, jnp.full(1, 501), conditioning)
    error = relative(channels_first(out[:, 0]), expected)
    print(f"relative error {error:.1e}")
    assert error <= 1e-4
