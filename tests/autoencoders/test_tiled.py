"""Protects tiled decoding: the whole picture's result where tiles see enough, whole seams, flat memory, refused sizes."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import follow_your_emoji
from data import synthetic
from portrait_jax.autoencoders import decode_tiled
from portrait_jax.autoencoders.pixels import to_pm1, to_u8
from portrait_jax.autoencoders.tiled import tile_shares, tile_starts
from portrait_jax.errors import ConfigError, ShapeError
from portrait_jax.metrics import image
from portrait_jax.systems.follow_your_emoji import FollowYourEmoji
from portrait_jax.systems.loading import load_system_params
from portrait_jax.systems.system import SamplingConfig

KERNEL = jax.random.normal(jax.random.key(1), (3, 3, 2, 3))
SIZES = [((9, 14), 5, 0.4), ((4, 13), 6, 0.34), ((7, 8), 4, 0.75)]
"""Height and width in cells, tile, share of it that the next one has."""


def filtered(latent):
    """A decoder that sees one cell to each side; a pixel per cell, two frames per frame."""
    frames = latent.reshape(-1, *latent.shape[-3:])
    picture = jax.lax.conv_general_dilated(frames, KERNEL, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jnp.repeat(picture.reshape(*latent.shape[:-1], 3), 2, axis=1)


def enlarged(latent):
    """A decoder that sees one cell; 2×2 pixels of each."""
    return jnp.repeat(jnp.repeat(latent @ KERNEL[0, 0], 2, axis=-3), 2, axis=-2)


@pytest.mark.parametrize(("size", "tile", "overlap"), SIZES)
@pytest.mark.parametrize("decode", [filtered, enlarged])
def test_a_decoder_that_sees_less_than_tiles_share_draws_the_whole_picture(decode, size, tile, overlap):
    latent = jax.random.normal(jax.random.key(0), (2, 3, *size, 2))
    run, whole = jax.jit(decode_tiled, static_argnums=(0, 2, 3)), decode(latent)
    assert whole.shape[1:] in ((6, *size, 3), (3, 2 * size[0], 2 * size[1], 3))
    np.testing.assert_allclose(run(decode, latent, tile, overlap), whole, atol=1e-5)


@pytest.mark.parametrize("tile", [0, 9, 40])
def test_one_tile_that_covers_all_is_the_whole_picture(tile):
    latent = jax.random.normal(jax.random.key(0), (1, 1, 9, 7, 2))
    np.testing.assert_array_equal(decode_tiled(enlarged, latent, tile), enlarged(latent))


@pytest.mark.parametrize(("size", "tile", "shared"), [(9, 4, 0), (17, 8, 2), (64, 16, 4), (13, 8, 7), (5, 4, 1)])
@pytest.mark.parametrize("stride", [1, 8])
def test_tiles_reach_from_border_to_border_and_every_pixel_is_counted_once(size, tile, shared, stride):
    starts = tile_starts(size, tile, shared)
    assert starts[0] == 0 and starts[-1] == size - tile and (np.diff(starts) <= tile - shared).all()
    shares, total = tile_shares(stride * starts, stride * tile, stride * size), np.zeros(stride * size)
    for start, share in zip(stride * starts, shares):
        total[start : start + stride * tile] += share
    assert shares.min() >= 0
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_over_what_two_tiles_share_one_gives_way_to_the_other_linearly():
    left, right = tile_shares(np.array([0, 4]), 8, 12)
    np.testing.assert_allclose(left, [1, 1, 1, 1, 1, 2 / 3, 1 / 3, 0], atol=1e-6)
    np.testing.assert_allclose(right, left[::-1], atol=1e-6)


def wide(latent):
    """`enlarged` by way of 256 numbers for each pixel."""
    hidden = jnp.sin(enlarged(latent) @ jnp.ones((3, 256)))
    return hidden @ jnp.ones((256, 3))


def test_memory_of_a_larger_picture_grows_by_the_picture_alone():
    def temporaries(side: int, tile: int) -> int:
        latent = jax.ShapeDtypeStruct((1, side, side, 2), jnp.float32)
        made = jax.jit(lambda z: decode_tiled(wide, z, tile)).lower(latent).compile()
        return made.memory_analysis().temp_size_in_bytes

    whole, tiled = (temporaries(64, tile) - temporaries(32, tile) for tile in (0, 16))
    picture = 4 * 3 * (128**2 - 64**2)
    assert tiled <= 3 * picture and whole > 10 * tiled, (tiled, whole, picture)


@pytest.mark.parametrize(("tile", "overlap"), [(-1, 0.25), (8, 1.0), (8, -0.1), (4, 0.9), (0, 2.0)])
def test_tiles_that_cannot_be_are_refused_by_settings_and_decoder(tile, overlap):
    with pytest.raises(ConfigError, match=r"sampling.decode_(tile|overlap)"):
        SamplingConfig(decode_tile=tile, decode_overlap=overlap)
    with pytest.raises(ConfigError, match=r"sampling.decode_(tile|overlap)"):
        decode_tiled(enlarged, jnp.zeros((1, 1, 9, 9, 2)), tile, overlap)


@pytest.mark.slow
def test_the_embedded_autoencoder_draws_nearly_the_same_by_tiles_of_half_the_picture(optimised):
    system = FollowYourEmoji.from_config(follow_your_emoji.get_config("demo"))
    params, module = jax.device_put(load_system_params(system)["autoencoder"]), system.autoencoder
    person = synthetic.sample_identity(synthetic.split_seed("test", 0))
    performance = synthetic.sample_performance(synthetic.split_seed("test", 1000), 1)
    neutral = np.zeros(len(synthetic.EXPRESSION_NAMES), np.float32)
    picture = synthetic.render(person, performance.pose[0], neutral, 256).image

    @jax.jit
    def both(picture):
        latent, _ = module.apply({"params": params}, to_pm1(picture), method="encode")
        decode = partial(module.apply, {"params": params}, method="decode")
        return decode(latent), decode_tiled(decode, latent, 16)

    whole, tiled = map(to_u8, both(picture[None]))
    found = image.psnr(whole, tiled)
    print(f"{found:.1f} dB")
    assert 40 < found < 60


def test_a_decoder_of_other_proportions_is_refused():
    with pytest.raises(ShapeError, match="8×4 pixels of 4×4 cells"):
        decode_tiled(lambda z: jnp.repeat(z, 2, axis=-3), jnp.zeros((1, 9, 9, 2)), 4)
