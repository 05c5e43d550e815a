"""The UNet and its motion modules equal diffusers' classes at small random sizes."""

from __future__ import annotations

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from portrait_jax.backbones.unet import UNet, UNetConfig
from portrait_jax.conditioning import Conditioning
from portrait_jax.nn.temporal import TemporalConfig
from tests.parity.oracle import (
    FORWARD,
    assert_parity,
    channels_first,
    channels_last,
    diffusers,
    draw,
    publish,
    randomised,
    relative,
    torch,
)
from tests.weights import part_of

pytestmark = pytest.mark.parity

SIZES = dict(
    sample_size=8,
    block_out_channels=(32, 64, 128, 128),
    layers_per_block=2,
    norm_num_groups=32,
    cross_attention_dim=48,
)
TINY = UNetConfig(block_out_channels=(32, 64, 128, 128), context_dim=48)
SHAPES = jnp.zeros((1, 1, 8, 8, 4)), jnp.zeros(1)


def published(oracle, config: UNetConfig, *layouts: str):
    """A UNet's file, and that of its motion modules in diffusers' names."""
    return publish(oracle.state_dict(), [part_of(name) for name in ("sd15_unet", *layouts)], UNet(config), *SHAPES)


def test_image_unet_equals_diffusers():
    oracle = randomised(diffusers.UNet2DConditionModel(**SIZES, attention_head_dim=8))
    assert sum(value.numel() for value in oracle.parameters()) == 8_565_348
    text = draw(2, 77, 48, seed=2)

    def apply(params, x, dtype):
        x = channels_last(x)[:, None]
        out = UNet(TINY, dtype=dtype).apply(params, x, jnp.full(2, 7), Conditioning(image_tokens=jnp.asarray(text)))
        return channels_first(out[:, 0])

    assert_parity(
        oracle,
        lambda x: oracle(x, 7, torch.tensor(text)).sample,
        apply,
        draw(2, 4, 8, 8),
        published(oracle, TINY),
        ["conv_in.weight", "up_blocks.2.attentions.0.transformer_blocks.0.attn2.to_k.weight"],
    )


def test_odd_sizes_are_enlarged_to_the_size_of_the_skip():
    oracle = randomised(diffusers.UNet2DConditionModel(**SIZES, attention_head_dim=8), seed=1)
    text, x = draw(1, 5, 48, seed=2), draw(1, 4, 10, 7)
    params = published(oracle, TINY).variables
    expected = oracle(torch.tensor(x), 500, torch.tensor(text)).sample.detach().numpy()
    tokens = Conditioning(image_tokens=jnp.asarray(text))
    out = jax.jit(UNet(TINY).apply)(params, channels_last(x)[:, None], jnp.full(1, 500), tokens)
    assert relative(channels_first(out[:, 0]), expected) < FORWARD


@pytest.mark.parametrize(("version", "elements"), [("v2", 13_133_124), ("v3", 12_769_988)])
def test_video_unet_equals_diffusers_with_joint_norms(version, elements):
    mid = version == "v2"
    oracle = randomised(motion_unet(mid))
    assert sum(value.numel() for value in oracle.parameters()) == elements
    text = draw(1, 77, 48, seed=2)
    config = replace(TINY, temporal=TemporalConfig(mid=mid, joint_norm=True))

    def apply(params, x, dtype):
        out = UNet(config, dtype=dtype).apply(
            params, channels_last(x), jnp.full(1, 7), Conditioning(image_tokens=jnp.asarray(text))
        )
        return channels_first(out)

    assert_parity(
        oracle,
        lambda x: oracle(x, 7, torch.tensor(text).repeat(x.shape[2], 1, 1)).sample,
        apply,
        draw(1, 4, 6, 8, 8),
        published(oracle, config, f"animatediff_{version}_diffusers"),
        [
            "down_blocks.1.motion_modules.0.transformer_blocks.0.attn2.to_v.weight",
            "up_blocks.3.motion_modules.2.norm.weight",
        ],
    )


def motion_unet(mid: bool):
    return diffusers.UNetMotionModel(
        **SIZES,
        down_block_types=("CrossAttnDownBlockMotion",) * 3 + ("DownBlockMotion",),
        up_block_types=("UpBlockMotion",) + ("CrossAttnUpBlockMotion",) * 3,
        num_attention_heads=8,
        motion_num_attention_heads=8,
        motion_max_seq_length=32,
        use_motion_mid_block=mid,
    )


class PerFrameNorm(torch.nn.GroupNorm):
    """The original's norm at the entrance of a motion module: every frame alone, where diffusers takes them together."""

    def forward(self, x):
        batch, channels, frames, *space = x.shape
        alone = super().forward(x.transpose(1, 2).reshape(batch * frames, channels, *space))
        return alone.reshape(batch, frames, channels, *space).transpose(1, 2)


def test_video_unet_equals_diffusers_with_the_originals_per_frame_norms():
    oracle = randomised(motion_unet(mid=True), seed=1)
    text, x = draw(1, 5, 48, seed=2), draw(1, 4, 3, 8, 8)
    params = published(oracle, replace(TINY, temporal=TemporalConfig()), "animatediff_v2_diffusers").variables

    def run(joint):
        config = replace(TINY, temporal=TemporalConfig(joint_norm=joint))
        tokens = Conditioning(image_tokens=jnp.asarray(text))
        return channels_first(jax.jit(UNet(config).apply)(params, channels_last(x), jnp.full(1, 7), tokens))

    def call():
        with torch.no_grad():
            return oracle(torch.tensor(x), 7, torch.tensor(text).repeat(x.shape[2], 1, 1)).sample.numpy()

    assert relative(run(joint=False), call()) > 1e-2
    norms = [module for name, module in oracle.named_modules() if re.search(r"motion_modules\.\d+\.norm$", name)]
    assert len(norms) == 21
    for norm in norms:
        norm.__class__ = PerFrameNorm
    assert relative(run(joint=False), call()) < FORWARD
    assert relative(run(joint=True), call()) > 1e-2
