"""T2I-Adapter and ControlNet equal diffusers', and so do their places in the UNet."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.adapters import ControlNet, ControlNetConfig, T2IAdapter, T2IAdapterConfig
from portrait_jax.backbones.unet import UNet, UNetConfig
from portrait_jax.conditioning import Conditioning
from portrait_jax.nn.slots import level_residual_slot, skip_residual_slots
from tests.parity.oracle import (
    assert_parity,
    channels_first,
    channels_last,
    diffusers,
    draw,
    joined,
    publish,
    randomised,
    torch,
)
from tests.weights import part_of

pytestmark = pytest.mark.parity

WIDTHS = (32, 64, 128, 128)


def frame_by_frame(x, batch: int = 1):
    """b c h w → batch f h w c."""
    x = channels_last(x)
    return x.reshape(batch, -1, *x.shape[1:])


def test_t2i_adapter_equals_diffusers():
    oracle = diffusers.T2IAdapter(channels=list(WIDTHS), num_res_blocks=2, downscale_factor=8)
    assert sum(value.numel() for value in oracle.parameters()) == 824_928
    oracle, config = randomised(oracle), T2IAdapterConfig(WIDTHS)
    module, image = T2IAdapter(config), jnp.zeros((1, 1, 64, 64, 3))
    published = publish(oracle.state_dict(), part_of("t2i_adapter_sd15"), module, image)

    def apply(params, x, dtype):
        features = T2IAdapter(config, dtype).apply(params, frame_by_frame(x))
        return joined([channels_first(y[0]) for y in features])

    # Latents of 9×5 pixels: the levels halve odd sizes.
    image = np.random.default_rng(1).random((2, 3, 72, 40), dtype=np.float32)
    names = ["adapter.conv_in.weight", "adapter.body.2.resnets.1.block1.weight"]
    assert_parity(oracle, lambda x: joined(oracle(x)), apply, image, published, names)


def test_controlnet_equals_diffusers():
    oracle = diffusers.ControlNetModel(
        block_out_channels=WIDTHS,
        conditioning_embedding_out_channels=(16, 32, 96, 256),
        cross_attention_dim=48,
        attention_head_dim=8,
    )
    assert sum(value.numel() for value in oracle.parameters()) == 4_010_800
    oracle, config = randomised(oracle), ControlNetConfig(UNetConfig(block_out_channels=WIDTHS, context_dim=48))
    text = draw(1, 7, 48, seed=2)
    latents = draw(2, 4, 8, 8, seed=3)
    arguments = jnp.zeros((1, 1, 8, 8, 4)), jnp.zeros(1), jnp.zeros((1, 1, 64, 64, 3)), jnp.zeros((1, 7, 48))
    published = publish(oracle.state_dict(), part_of("controlnet_sd15"), ControlNet(config), *arguments)

    def call(image):
        out = oracle(torch.tensor(latents), 7, torch.tensor(text).repeat(2, 1, 1), image)
        assert [x.shape[-1] for x in out.down_block_res_samples] == [8, 8, 8, 4, 4, 4, 2, 2, 2, 1, 1, 1]
        return joined([*out.down_block_res_samples, out.mid_block_res_sample])

    def apply(params, image, dtype):
        arguments = frame_by_frame(latents), jnp.full(1, 7), frame_by_frame(image), jnp.asarray(text)
        return joined([channels_first(y[0]) for y in ControlNet(config, dtype).apply(params, *arguments)])

    image = np.random.default_rng(1).random((2, 3, 64, 64), dtype=np.float32)
    names = ["controlnet_cond_embedding.blocks.3.weight", "controlnet_down_blocks.7.weight"]
    assert_parity(oracle, call, apply, image, published, names)


SMALL = UNetConfig(block_out_channels=(32, 64), layers_per_block=2, attention_levels=(True, False), context_dim=48)
LEVELS = [(32, 8), (64, 4)]
SKIPS = [(32, 8)] * 3 + [(32, 4)] + [(64, 4)] * 2
"""Width and size of each level's residual, and of each skip's; the middle's is the last skip's."""


def cut(vector) -> list:
    """Residuals b c h w from one vector per item."""
    pieces, start = [], 0
    for width, size in [*LEVELS, *SKIPS, SKIPS[-1]]:
        length = width * size * size
        pieces.append(vector[:, start : start + length].reshape(-1, width, size, size))
        start += length
    return pieces


def test_residuals_of_levels_and_skips_land_where_diffusers_adds_them():
    """The gradient with respect to every residual says in which places it was added."""
    oracle = randomised(
        diffusers.UNet2DConditionModel(
            sample_size=8,
            block_out_channels=SMALL.block_out_channels,
            layers_per_block=2,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=48,
            attention_head_dim=8,
        )
    )
    text, latents = draw(1, 7, 48, seed=2), draw(2, 4, 8, 8, seed=3)
    slots = (level_residual_slot(), *skip_residual_slots())
    total = sum(width * size * size for width, size in [*LEVELS, *SKIPS, SKIPS[-1]])

    def call(vector):
        residuals = cut(vector)
        return oracle(
            torch.tensor(latents),
            7,
            torch.tensor(text).repeat(2, 1, 1),
            down_intrablock_additional_residuals=residuals[: len(LEVELS)],
            down_block_additional_residuals=tuple(residuals[len(LEVELS) : -1]),
            mid_block_additional_residual=residuals[-1],
        ).sample

    def apply(params, vector, dtype):
        residuals = tuple(frame_by_frame(x) for x in cut(vector))
        conditioning = Conditioning(
            image_tokens=jnp.asarray(text),
            level_residuals=residuals[: len(LEVELS)],
            skip_residuals=residuals[len(LEVELS) :],
        )
        out = UNet(SMALL, slots, dtype).apply(params, frame_by_frame(latents), jnp.full(1, 7), conditioning)
        return channels_first(out[0])

    module = UNet(SMALL, slots)
    published = publish(oracle.state_dict(), part_of("sd15_unet"), module, jnp.zeros((1, 1, 8, 8, 4)), jnp.zeros(1))
    names = ["conv_in.weight", "down_blocks.1.resnets.1.conv2.weight"]
    assert_parity(oracle, call, apply, draw(2, total), published, names)
