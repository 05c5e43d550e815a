"""The text-to-video transformer equals diffusers' at a small random size."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.backbones.cogvideox import CogVideoX, CogVideoXConfig, grid_positions
from portrait_jax.conditioning import Conditioning
from portrait_jax.nn.embeddings import rotary_angles
from tests.parity.oracle import assert_parity, diffusers, draw, publish, randomised, torch
from tests.weights import part_of

pytestmark = pytest.mark.parity

TINY = CogVideoXConfig(
    layers=2, heads=4, text_dim=48, text_tokens=16, time_dim=64, grid=(3, 4, 6), remat="weights"
)  # fmt: skip
NAMES = ["transformer_blocks.1.attn1.to_k.weight", "transformer_blocks.0.norm2.linear.bias"]


@pytest.fixture(scope="module")
def oracle():
    made = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=4, attention_head_dim=64, in_channels=32, out_channels=16, time_embed_dim=64,
        text_embed_dim=48, num_layers=2, sample_width=12, sample_height=8, sample_frames=9, max_text_seq_length=16,
        use_rotary_positional_embeddings=True, use_learned_positional_embeddings=True, attention_bias=True,
    )  # fmt: skip
    assert sum(value.numel() for value in made.parameters()) == 2_096_320
    return randomised(made.float())


def frequencies(grid: tuple[int, int, int], trained: tuple[int, int, int]) -> tuple:
    """diffusers' tables for a grid of tokens."""
    crop = diffusers.pipelines.cogvideo.pipeline_cogvideox.get_resize_crop_region_for_grid(
        grid[1:], trained[2], trained[1]
    )
    return diffusers.models.embeddings.get_3d_rotary_pos_embed(64, crop, grid[1:], grid[0])


def test_prediction_equals_diffusers(oracle):
    """Frame first, then channels in the oracle; the second half of the channels is what is known."""
    text, x = draw(1, 16, 48, seed=2), draw(1, 3, 32, 8, 12)
    conditioning = Conditioning(text=jnp.asarray(text))
    module = CogVideoX(TINY)
    published = publish(
        oracle.state_dict(), part_of("cogvideox_5b_i2v_transformer"), module, jnp.zeros((1, 3, 8, 12, 32)), jnp.zeros(1),
        conditioning,
    )  # fmt: skip
    rotary = frequencies((3, 4, 6), TINY.grid)

    def call(x):
        return oracle(x, torch.tensor(text), torch.tensor([5]), image_rotary_emb=rotary).sample

    def apply(params, x, dtype):
        noisy, known = jnp.split(jnp.moveaxis(x, 2, -1), 2, axis=-1)
        given = conditioning.replace(known=known)
        return jnp.moveaxis(CogVideoX(TINY, dtype=dtype).apply(params, noisy, jnp.array([5]), given), -1, 2)

    assert_parity(oracle, call, apply, x, published, NAMES)


@pytest.mark.parametrize("grid", [(13, 30, 45), (5, 30, 45), (13, 40, 40), (2, 20, 45)])
def test_rotations_equal_diffusers_at_any_size(grid):
    trained = CogVideoXConfig().grid
    angles = rotary_angles(grid_positions(grid, trained), CogVideoXConfig().rotary_widths)
    for table, ours in zip(frequencies(grid, trained), (np.cos(angles), np.sin(angles))):
        np.testing.assert_allclose(ours, table.numpy(), atol=2e-5)
