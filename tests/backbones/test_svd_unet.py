"""The spatio-temporal UNet: its published size, what frames see of each other, tokens of frames, what does not fit."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.backbones.svd_unet import SVDUNet, SVDUNetConfig
from portrait_jax.conditioning import Conditioning
from portrait_jax.errors import ConfigError, ShapeError
from portrait_jax.interchange.tables.svd import unet_shapes
from tests.weights import random_params

TINY = SVDUNetConfig(
    in_channels=2, out_channels=2, block_out_channels=(4, 8), layers_per_block=1, attention_levels=(True, False),
    norm_groups=2, num_heads=(1, 2), context_dim=3, id_dim=4, over_time="mean",
)  # fmt: skip
X = (2, 3, 4, 4, 2)


def noise(shape: tuple[int, ...], seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def told(**fields) -> Conditioning:
    return Conditioning(image_tokens=noise((2, 3, 2, 3), 1), portrait=noise((2, 4, 4, 2), 2), **fields)


@pytest.fixture(scope="module")
def denoise():
    """The jitted network with its variables bound: one program for all tests that call it with `told()`."""
    params = random_params(SVDUNet(TINY), jnp.zeros(X), jnp.zeros(2))
    return params, jax.jit(lambda x, c: SVDUNet(TINY).apply(params, x, jnp.array([1.5, -1.0]), c))


def test_full_size_is_that_of_svd_xt():
    assert sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(unet_shapes())) == 1_524_623_082


def test_frames_of_a_clip_see_each_other_and_clips_do_not(denoise):
    _, run = denoise
    x, c = noise(X), told(ids=noise((2, 3)))
    changed = np.abs(run(x.at[0, 2].add(1), c) - run(x, c)).max((2, 3, 4))
    assert (changed[0] > 1e-4).all() and (changed[1] == 0).all()


def test_every_frame_may_have_tokens_of_its_own(denoise):
    _, run = denoise
    x, c = noise(X), told(ids=noise((2, 3)))
    shared = c.replace(image_tokens=jnp.broadcast_to(c.image_tokens[:, :1], c.image_tokens.shape))
    one = jax.jit(lambda x, c: SVDUNet(TINY).apply(denoise[0], x, jnp.array([1.5, -1.0]), c))(
        x, c.replace(image_tokens=c.image_tokens[:, 0])
    )
    np.testing.assert_allclose(run(x, shared), one, atol=1e-5)
    assert np.abs(run(x, c) - one).max() > 1e-3
    assert c.window(1, 2).image_tokens.shape == (2, 2, 2, 3)


def test_absent_tokens_ids_and_portrait_count_as_zeros(denoise):
    params, run = denoise
    bare = jax.jit(lambda x: SVDUNet(TINY).apply(params, x, jnp.array([1.5, -1.0])))(noise(X))
    zeros = jax.tree.map(jnp.zeros_like, told(ids=jnp.zeros((2, 3))))
    np.testing.assert_allclose(run(noise(X), zeros), bare, atol=1e-5)


@pytest.mark.slow
def test_gradients_reach_every_parameter_and_recomputing_them_changes_nothing(denoise):
    params, _ = denoise
    x, c = noise(X), told(ids=noise((2, 3)))

    def gradients(config):
        return jax.jit(jax.grad(lambda p: jnp.mean(SVDUNet(config).apply(p, x, jnp.array([1.5, -1.0]), c) ** 2)))(
            params
        )

    kept = gradients(TINY)
    silent = [jax.tree_util.keystr(path) for path, leaf in jax.tree_util.tree_leaves_with_path(kept) if not leaf.any()]
    assert not silent
    again = gradients(replace(TINY, gradient_checkpointing=True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * float(np.abs(b).max())), again, kept)


def test_what_does_not_fit_is_named():
    with pytest.raises(ConfigError, match="num_heads has 3 entries for 2 levels"):
        replace(TINY, num_heads=(1, 2, 2))
    with pytest.raises(ConfigError, match="did you mean 'mean'"):
        replace(TINY, over_time="meen")
    for wrong, message in ((told(ids=jnp.zeros((2, 4))), "told 3 numbers"),
                           (Conditioning(image_tokens=jnp.zeros((2, 1, 5))), "width 5, cross-attention reads 3")):  # fmt: skip
        with pytest.raises(ShapeError, match=message):
            jax.eval_shape(lambda c: SVDUNet(TINY).init(jax.random.key(0), jnp.zeros(X), jnp.zeros(2), c), wrong)
