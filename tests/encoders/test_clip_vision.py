"""The image encoder: published size, preprocessing, tokens and embedding, errors."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from portrait_jax.encoders import CLIPVision, CLIPVisionConfig, clip_pixels
from portrait_jax.encoders.clip_vision import MEAN, STD
from portrait_jax.errors import ConfigError, ShapeError
from tests.weights import random_params, tree_of

TINY = CLIPVisionConfig(hidden=8, layers=2, heads=2, mlp=16, patch=4, image_size=8, projection=6)


def tree(config: CLIPVisionConfig):
    return tree_of(CLIPVision(config), jnp.zeros((1, config.image_size, config.image_size, 3)))


def count(tree) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def test_full_size_is_vit_l_14():
    assert count(tree(CLIPVisionConfig())) == 303_966_208


def test_full_size_vit_h_14_differs_by_its_config_alone():
    huge = CLIPVisionConfig(hidden=1280, layers=32, mlp=5120, projection=1024, activation="gelu")
    assert count(tree(huge)) == 632_076_800


def test_tokens_and_embedding_come_from_one_set_of_parameters():
    pixels = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    module = CLIPVision(TINY)
    params = random_params(module, pixels)
    tokens = jax.jit(module.apply)(params, pixels)
    assert tokens.shape == (2, TINY.tokens, 8) == (2, 5, 8)
    embedding = jax.jit(lambda p, x: module.apply(p, x, embed=True))(params, pixels)
    assert embedding.shape == (2, 6)
    bare = CLIPVision(replace(TINY, projection=None))
    kept = {k: v for k, v in params["params"]["vision_model"].items() if k != "post_layernorm"}
    np.testing.assert_allclose(jax.jit(bare.apply)({"params": {"vision_model": kept}}, pixels), tokens, atol=1e-6)
    # The embedding is the projected, normalised class token.
    first = tokens[:, 0]
    normal = (first - first.mean(-1, keepdims=True)) / jnp.sqrt(first.var(-1, keepdims=True) + 1e-5)
    norm, kernel = (params["params"]["vision_model"]["post_layernorm"], params["params"]["visual_projection"]["kernel"])
    np.testing.assert_allclose(embedding, (normal * norm["scale"] + norm["bias"]) @ kernel, atol=1e-4)


def test_a_layer_before_the_last_gives_the_tokens_of_a_shallower_network():
    pixels = jax.random.normal(jax.random.key(0), (1, 8, 8, 3))
    params = random_params(CLIPVision(TINY), pixels)
    penultimate = jax.jit(lambda p, x: CLIPVision(TINY).apply(p, x, layer=-2))(params, pixels)
    shallow = CLIPVision(replace(TINY, layers=1))
    np.testing.assert_allclose(penultimate, jax.jit(shallow.apply)(params, pixels), atol=1e-5)


def test_preprocessing_resizes_the_short_side_crops_the_centre_and_normalises():
    image = jnp.zeros((1, 10, 30, 3)).at[:, :, 10:20].set(1.0).at[:, :, :10].set(-1.0)
    pixels = clip_pixels(image, 10)
    assert pixels.shape == (1, 10, 10, 3)
    np.testing.assert_allclose(pixels, np.broadcast_to((1 - np.array(MEAN)) / np.array(STD), (1, 10, 10, 3)), atol=1e-5)
    assert clip_pixels(jnp.zeros((2, 37, 23, 3)), 8).shape == (2, 8, 8, 3)
    black = clip_pixels(jnp.full((1, 16, 16, 3), -3.0), 8)
    np.testing.assert_allclose(black[0, 0, 0], -np.array(MEAN) / np.array(STD), atol=1e-5)


@pytest.mark.parametrize("shape", [(40, 40), (50, 37)])
def test_with_whole_levels_the_pixels_are_those_of_pillow(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    new = tuple(int(16 * side / min(shape)) for side in shape)
    expected = np.array(Image.fromarray(image).resize(new[::-1], Image.Resampling.BICUBIC))
    top, left = (new[0] - 16) // 2, (new[1] - 16) // 2
    expected = expected[top : top + 16, left : left + 16].astype(int)
    for whole, least in ((True, 0.999), (False, 0.0)):
        pixels = clip_pixels(jnp.asarray(image)[None] / 127.5 - 1, 16, whole_levels=whole)
        levels = 255 * (np.asarray(pixels[0]) * np.array(STD) + np.array(MEAN))
        assert np.abs(levels - expected).max() <= 1.01
        assert (np.abs(levels - expected) < 1e-2).mean() >= least


def test_mistakes_name_the_remedy():
    key = jax.random.key(0)
    with pytest.raises(ShapeError, match="use clip_pixels"):
        CLIPVision(TINY).init(key, jnp.zeros((1, 9, 9, 3)))
    with pytest.raises(ConfigError, match="no multiple of patch"):
        replace(TINY, image_size=9)
    with pytest.raises(ConfigError, match="no projection"):
        CLIPVision(replace(TINY, projection=None)).init(key, jnp.zeros((1, 8, 8, 3)), embed=True)
