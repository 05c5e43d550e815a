"""The small video autoencoder's shortcuts: linear, over no other frames, and no part of the published layout."""

import jax
import jax.numpy as jnp
import numpy as np

from portrait_jax.autoencoders import CausalAutoencoder, CausalConfig
from portrait_jax.training.state import flatten, unflatten
from tests.weights import random_params, tree_of

SIZES = {"block_out_channels": (4, 8), "layers_per_block": 1, "latent_channels": 3, "norm_groups": 2}
VIDEO = jax.random.normal(jax.random.key(0), (2, 1, 5, 8, 8, 3))


def test_shortcuts_alone_are_a_linear_map_of_each_frame_to_latents_and_back():
    module = CausalAutoencoder(CausalConfig(**SIZES, time_levels=1, shortcuts=True))
    params = flatten(random_params(module, VIDEO[0])["params"])
    bent = {name: leaf if "shortcut" in name else jnp.zeros_like(leaf) for name, leaf in params.items()}
    # Only what lies on the way stays: the first convolution of both halves sees its own place.
    for half in ("encoder", "decoder"):
        kernel = params[f"{half}/conv_in/conv/kernel"]
        bent[f"{half}/conv_in/conv/kernel"] = jnp.zeros_like(kernel).at[2, 1, 1].set(kernel[2, 1, 1])
    through = jax.jit(lambda video: module.apply({"params": unflatten(bent)}, video))
    zero, one, other, both = (np.asarray(through(video)) for video in (0 * VIDEO[0], *VIDEO, VIDEO[0] - 2 * VIDEO[1]))
    assert np.ptp(one) > 1e-3
    np.testing.assert_allclose(both - zero, (one - zero) - 2 * (other - zero), atol=1e-4)
    # The first frame stands for itself; two by two the others are a mean.
    changed = np.asarray(through(VIDEO[0].at[:, 3].add(1.0)))
    np.testing.assert_array_equal(changed[:, :3], one[:, :3])
    assert np.abs(changed[:, 3:] - one[:, 3:]).max(axis=(0, 2, 3, 4)).min() > 1e-4


def test_those_around_the_heads_start_at_zero():
    module = CausalAutoencoder(CausalConfig(**SIZES, shortcuts=True))
    params = flatten(jax.jit(module.init)(jax.random.key(0), VIDEO[0])["params"])
    zero = {name for name, leaf in params.items() if name.endswith("shortcut/kernel") and not np.any(leaf)}
    assert zero == {"encoder/shortcut/kernel", "decoder/shortcut/kernel"}


def test_the_published_layout_has_none():
    plain, short = (
        set(flatten(tree_of(CausalAutoencoder(CausalConfig(**SIZES, shortcuts=shortcuts)), VIDEO[0])))
        for shortcuts in (False, True)
    )
    assert plain < short and all("/shortcut/" in name for name in short - plain) and len(short - plain) == 2 * 4
