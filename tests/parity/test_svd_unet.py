"""The spatio-temporal UNet equals diffusers' at a small random size."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.backbones.svd_unet import SVDUNet, SVDUNetConfig
from portrait_jax.conditioning import Conditioning
from tests.parity.oracle import FORWARD, assert_parity, diffusers, draw, publish, randomised, relative, torch
from tests.weights import part_of

pytestmark = pytest.mark.parity

TINY = SVDUNetConfig(
    block_out_channels=(32, 64, 128, 128), num_heads=(1, 2, 4, 4), context_dim=32, id_dim=32, in_channels=4
)
IDS = np.array([[6.0, 127.0, 0.02]], np.float32)


@pytest.fixture(scope="module")
def oracle():
    made = diffusers.UNetSpatioTemporalConditionModel(
        sample_size=8,
        in_channels=8,
        out_channels=4,
        block_out_channels=TINY.block_out_channels,
        num_attention_heads=TINY.num_heads,
        cross_attention_dim=TINY.context_dim,
        addition_time_embed_dim=TINY.id_dim,
        projection_class_embeddings_input_dim=3 * TINY.id_dim,
        layers_per_block=TINY.layers_per_block,
        num_frames=5,
    )
    assert sum(value.numel() for value in made.parameters()) == 14_990_346
    return randomised(made)


@pytest.fixture(scope="module")
def published(oracle):
    return publish(oracle.state_dict(), part_of("svd_xt_unet"), SVDUNet(TINY), jnp.zeros((1, 1, 8, 8, 4)), jnp.zeros(1))


def run(params, x, dtype, timestep=1.2):
    """Latents and the portrait's, joined as the oracle wants them, through ours."""
    video = jnp.moveaxis(x, 2, -1)
    told = Conditioning(
        image_tokens=jnp.asarray(draw(len(x), 1, TINY.context_dim, seed=2)),
        ids=jnp.repeat(IDS, len(x), axis=0),
        portrait=video[:, 0, ..., 4:],
    )
    out = SVDUNet(TINY, dtype=dtype).apply(params, video[..., :4], jnp.full(len(x), timestep), told)
    return jnp.moveaxis(out, -1, 2)


def ask(oracle, x, timestep=1.2):
    """The same through the oracle."""
    tokens, ids = draw(len(x), 1, TINY.context_dim, seed=2), np.repeat(IDS, len(x), axis=0)
    return oracle(x, timestep, torch.tensor(tokens), torch.tensor(ids)).sample


def joined(clips: int, frames: int, height: int, width: int) -> np.ndarray:
    """Noisy latents of each frame, and of one portrait for all."""
    noisy, portrait = draw(clips, frames, 4, height, width), draw(clips, 1, 4, height, width, seed=3)
    return np.concatenate([noisy, np.repeat(portrait, frames, axis=1)], axis=2)


def test_spatio_temporal_unet_equals_diffusers(oracle, published):
    names = [
        "down_blocks.0.attentions.1.temporal_transformer_blocks.0.attn1.to_k.weight",
        "up_blocks.1.resnets.0.time_mixer.mix_factor",
    ]
    # The gradient of one portrait is that of all its copies: the input's is compared by its noisy part.
    portrait = jnp.asarray(joined(1, 5, 8, 8))[:, :, 4:]

    def apply(params, x, dtype):
        return run(params, jnp.concatenate([x, portrait], axis=2), dtype)

    def call(x):
        return ask(oracle, torch.cat([x, torch.tensor(np.asarray(portrait))], 2))

    assert_parity(oracle, call, apply, draw(1, 5, 4, 8, 8), published, names)


def test_clips_of_a_batch_do_not_see_each_other_and_odd_sizes_fit(oracle, published):
    x = joined(2, 3, 10, 6)
    expected = ask(oracle, torch.tensor(x), -0.7).detach().numpy()
    out = jax.jit(lambda params, x: run(params, x, jnp.float32, -0.7))(published.variables, jnp.asarray(x))
    assert relative(out, expected) < FORWARD
