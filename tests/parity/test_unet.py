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
    assert_tree_is_complete,
    channels_first,
    channels_last,
    diffusers,
    draw,
    randomised,
    relative,
    torch,
    variables,
)

pytestmark = pytest.mark.parity

SIZES = dict(
    sample_size=8,
    block_out_channels=(32, 64, 128, 128),
    layers_per_block=2,
    norm_num_groups=32,
    cross_attention_dim=48,
)
TINY = UNetConfig(block_out_channels=(32, 64, 128, 128), context_dim=48)
MOTION_NAMES = {
    r"motion_modules\.(\d+)\.": r"motion_modules.\1.temporal_transformer.",
    r"(temporal_transformer\..*)attn([12])\.": lambda m: f"{m[1]}attention_blocks.{int(m[2]) - 1}.",
    r"(temporal_transformer\..*)norm([12])\.": lambda m: f"{m[1]}norms.{int(m[2]) - 1}.",
    r"(temporal_transformer\..*)norm3\.": r"\1ff_norm.",
}
"""diffusers' names inside motion modules → the original's, which ours follow."""


def original_name(name: str) -> str | None:
    for pattern, replacement in MOTION_NAMES.items():
        name = re.sub(pattern, replacement, name)
    return None if name.endswith("pos_embed.pe") else name


def test_image_unet_equals_diffusers():
    oracle = randomised(diffusers.UNet2DConditionModel(**SIZES, attention_head_dim=8))
    assert sum(value.numel() for value in oracle.parameters()) == 8_565_348
    text = draw(2, 77, 48, seed=2)
    params = variables(oracle.state_dict())
    assert_tree_is_complete(UNet(TINY), params, jnp.zeros((1, 1, 8, 8, 4)), jnp.zeros(1))

    def apply(params, x, dtype):
        x = channels_last(x)[:, None]
        out = UNet(TINY, dtype=dtype).apply(params, x, jnp.full(2, 7), Conditioning(image_tokens=jnp.asarray(text)))
        return channels_first(out[:, 0])

    assert_parity(
        oracle,
        lambda x: oracle(x, 7, torch.tensor(text)).sample,
        apply,
        draw(2, 4, 8, 8),
        params,
        ["conv_in.weight", "up_blocks.2.attentions.0.transformer_blocks.0.attn2.to_k.weight"],
    )


def test_odd_sizes_are_enlarged_to_the_size_of_the_skip():
    oracle = randomised(diffusers.UNet2DConditionModel(**SIZES, attention_head_dim=8), seed=1)
    text, x = draw(1, 5, 48, seed=2), draw(1, 4, 10, 7)
    params = variables(oracle.state_dict())
    expected = oracle(torch.tensor(x), 500, torch.tensor(text)).sample.detach().numpy()
    out = UNet(TINY).apply(
        params, channels_last(x)[:, None], jnp.full(1, 500), Conditioning(image_tokens=jnp.asarray(text))
    )
    assert relative(channels_first(out[:, 0]), expected) < FORWARD


@pytest.mark.parametrize(("mid", "elements"), [(True, 13_133_124), (False, 12_769_988)], ids=["v2", "v3"])
def test_video_unet_equals_diffusers_with_joint_norms(mid, elements):
    oracle = randomised(motion_unet(mid))
    assert sum(value.numel() for value in oracle.parameters()) == elements
    text = draw(1, 77, 48, seed=2)
    config = replace(TINY, temporal=TemporalConfig(mid=mid, joint_norm=True))
    params = variables(oracle.state_dict(), original_name)
    assert_tree_is_complete(UNet(config), params, jnp.zeros((1, 1, 8, 8, 4)), jnp.zeros(1))

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
        params,
        [
            "down_blocks.1.motion_modules.0.transformer_blocks.0.attn2.to_v.weight",
            "up_blocks.3.motion_modules.2.norm.weight",
        ],
        original_name,
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


def test_per_frame_norms_differ_from_joint_ones_but_for_a_single_frame():
    """With one frame the oracle's norm is the frame's own; with more, per-frame norms are the original's convention."""
    oracle = randomised(motion_unet(mid=True), seed=1)
    text, x = draw(1, 5, 48, seed=2), draw(1, 4, 3, 8, 8)
    params = variables(oracle.state_dict(), original_name)

    def run(x, joint):
        config = replace(TINY, temporal=TemporalConfig(joint_norm=joint))
        apply = jax.jit(UNet(config).apply)
        return channels_first(
            apply(params, channels_last(x), jnp.full(1, 7), Conditioning(image_tokens=jnp.asarray(text)))
        )

    def call(x):
        return oracle(torch.tensor(x), 7, torch.tensor(text).repeat(x.shape[2], 1, 1)).sample.detach().numpy()

    assert relative(run(x[:, :, :1], joint=False), call(x[:, :, :1])) < FORWARD
    assert relative(run(x, joint=False), call(x)) > 1e-2
