"""Protects how windows of speech features become tokens of latent frames: which frames each hears, and by which layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.adapters.audio_projection import WAYS_TO_JOIN, AudioProjection, AudioProjectionConfig
from portrait_jax.errors import ConfigError
from tests.weights import random_params, shapes

SIZES = {"hidden": 6, "tokens": 2, "width": 4}


@pytest.mark.parametrize("joined", WAYS_TO_JOIN)
def test_the_first_frame_stands_for_itself_and_every_four_are_one(joined):
    module = AudioProjection(AudioProjectionConfig(**SIZES, joined=joined))
    windows = jax.random.normal(jax.random.key(0), (1, 9, 3, 2, 5))
    params = random_params(module, windows)
    tokens = module.apply(params, windows)
    assert tokens.shape == (1, 3, 2, 4)
    for frame, latent in ((0, 0), (1, 1), (4, 1), (5, 2), (8, 2)):
        change = np.abs(module.apply(params, windows.at[:, frame].add(1.0)) - tokens).max((0, 2, 3))
        assert change[latent] > 1e-4 and np.delete(change, latent).max() == 0


def test_by_the_paper_there_are_three_layers_and_frames_are_averaged():
    module = AudioProjection(AudioProjectionConfig(**SIZES, joined="mean"))
    windows = jax.random.normal(jax.random.key(0), (1, 5, 3, 2, 5))
    params = random_params(module, windows)
    tree, x = params["params"], np.asarray(windows).reshape(5, 30)
    assert tree.keys() == {"proj1", "proj2", "proj3", "norm"}
    for name in ("proj1", "proj2", "proj3"):
        x = x @ np.asarray(tree[name]["kernel"]) + np.asarray(tree[name]["bias"])
        x = x if name == "proj3" else np.maximum(x, 0)
    x = np.stack([x[0], x[1:].mean(0)]).reshape(1, 2, 2, 4)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    expected = x * np.asarray(tree["norm"]["scale"]) + np.asarray(tree["norm"]["bias"])
    np.testing.assert_allclose(module.apply(params, windows), expected, atol=2e-5)


def test_parameters_do_not_depend_on_how_long_the_first_clip_is():
    module = AudioProjection(AudioProjectionConfig(**SIZES))
    one, many = (jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, f, 3, 2, 5))) for f in (1, 9))
    assert shapes(one) == shapes(many)


def test_another_way_to_join_is_refused():
    with pytest.raises(ConfigError, match="joined by 'means'; did you mean 'mean'"):
        AudioProjectionConfig(joined="means")
