"""Protects: the ranges of every change, one draw per clip, determinism, and that no strength changes nothing."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.errors import ConfigError
from portrait_jax.training.augment import (
    LUMA,
    STILL,
    AugmentConfig,
    augment,
    bends,
    bilinear,
    factors,
    jitter,
    piecewise_affine,
    pixel_grid,
    square,
    turn,
)

FULL = AugmentConfig()


def clips(count=3, frames=2, side=20, seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(size=(count, frames, side, side, 3)), jnp.float32)


def whole(count=3, frames=2, side=20):
    """Boxes whose square is the whole picture."""
    half = side / 1.1 / 2
    box = jnp.array([side / 2 - half, side / 2 - half, side / 2 + half, side / 2 + half])
    return jnp.broadcast_to(box, (count, frames, 4))


def only(**strengths):
    return dataclasses.replace(STILL, **strengths)


def test_without_strength_the_crop_alone_remains():
    found = augment(jax.random.key(0), clips(), whole(), 20, STILL)
    np.testing.assert_allclose(found, clips(), atol=1e-5)


def test_the_crop_is_the_square_around_each_frames_own_face():
    picture = jnp.zeros((1, 2, 40, 40, 3)).at[0, 0, 10:20, 4:14].set(1.0).at[0, 1, 22:32, 20:30].set(1.0)
    boxes = jnp.array([[[4, 10, 14, 20], [20, 22, 30, 32]]], jnp.float32)
    found = np.asarray(augment(jax.random.key(0), picture, boxes, 22, STILL))
    # The face fills 10 of 11 parts of the crop: pixels 1 … 20 of 22.
    np.testing.assert_allclose(found[0, 0], found[0, 1], atol=1e-5)
    assert found[0, 0, 2:20, 2:20].min() > 0.99 and found[0, 0, 0].max() < 0.51
    corners, sides = square(jnp.array([[[0.0, 0.0, 10.0, 20.0]]]))
    assert float(sides[0, 0]) == pytest.approx(22) and np.asarray(corners[0, 0]) == pytest.approx([-6, -1])


def test_the_same_key_gives_the_same_and_another_key_something_else():
    run = jax.jit(augment, static_argnums=(3, 4))
    first, again, other = (np.asarray(run(jax.random.key(i), clips(), whole(), 16, FULL)) for i in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert first.shape == (3, 2, 16, 16, 3) and first.min() >= 0 and first.max() <= 1
    assert np.abs(first - other).mean() > 0.01


def test_frames_of_a_clip_share_one_draw_and_clips_do_not():
    same = jnp.broadcast_to(clips(1, 1), (3, 2, 20, 20, 3))
    found = np.asarray(augment(jax.random.key(3), same, whole(), 16, FULL))
    np.testing.assert_allclose(found[:, 0], found[:, 1], atol=1e-6)
    assert np.abs(found[0] - found[1]).mean() > 0.01


def test_sizes_stay_within_thirty_percent_and_half_of_them_are_uneven():
    drawn = np.asarray(factors(jax.random.key(0), 2000, FULL))
    assert 0.7 <= drawn.min() < 0.71 and 1.29 < drawn.max() <= 1.3
    uneven = np.mean(drawn[:, 0] != drawn[:, 1])
    assert uneven == pytest.approx(0.5, abs=0.05)


def test_a_face_scaled_up_is_larger_in_the_picture():
    picture = jnp.zeros((200, 1, 20, 20, 3)).at[:, :, 5:15, 5:15].set(1.0)
    found = augment(jax.random.key(0), picture, whole(200, 1), 20, only(scale=0.3))
    area = np.asarray(found[..., 0].sum((1, 2, 3))) / 100
    drawn = np.asarray(factors(jax.random.split(jax.random.key(0), 3)[0], 200, only(scale=0.3)))
    np.testing.assert_allclose(area, drawn.prod(1), rtol=0.1)
    assert area.min() < 0.6 and area.max() > 1.5


def test_bends_are_as_strong_as_they_say_and_affine_within_triangles():
    knots = np.asarray(bends(jax.random.key(0), 500, 4, only(bend=0.03)))
    assert 0.01 < knots.std() < 0.03  # interpolated between control points of 0.03
    # An affine field is carried on exactly, whatever the grid.
    for n in (2, 4, 5):
        at = np.stack(np.meshgrid(np.linspace(0, 1, n), np.linspace(0, 1, n), indexing="xy"), -1)
        matrix, shift = np.array([[0.3, -0.2], [0.1, 0.5]]), np.array([0.2, -0.1])
        found = piecewise_affine(jnp.asarray(at @ matrix.T + shift, jnp.float32)[None], 9)
        np.testing.assert_allclose(found[0], np.asarray(pixel_grid(9)) @ matrix.T + shift, atol=1e-6)
    # One raised corner moves its own triangle only: the other half of the cell stays.
    raised = piecewise_affine(jnp.zeros((1, 2, 2, 2)).at[0, 0, 0].set(1.0), 8)[0, ..., 0]
    y, x = np.mgrid[:8, :8]
    assert np.abs(np.asarray(raised)[x + y >= 8]).max() == 0 and float(raised[0, 0]) == pytest.approx(1 - 2 / 16)


def test_reading_between_pixels_is_linear_and_the_border_goes_on():
    ramp = jnp.broadcast_to(jnp.arange(6.0)[None, :, None], (4, 6, 1))
    points = jnp.array([[[0.5, 1.0], [2.0, 2.0], [3.75, 0.1], [-9.0, 2.0], [99.0, 99.0], [jnp.nan, 1.0]]])
    np.testing.assert_allclose(bilinear(ramp, points)[0, :, 0], [0, 1.5, 3.25, 0, 5, 0], atol=1e-6)


def changes(name, strength, picture):
    """What 300 draws of one colour change make of a picture."""
    many = jnp.broadcast_to(picture, (300, 1, *picture.shape))
    return np.asarray(jitter(jax.random.key(5), many, only(**{name: strength})))[:, 0]


def test_brightness_contrast_and_saturation_stay_within_their_factors():
    grey = jnp.full((2, 2, 3), 0.4)
    bright = changes("brightness", 0.4, grey)[:, 0, 0, 0] / 0.4
    assert 0.6 <= bright.min() < 0.62 and 1.38 < bright.max() <= 1.4001
    step = grey.at[0].set(0.6)
    contrast = np.diff(changes("contrast", 0.4, step)[:, ::-1, 0, 0], axis=1)[:, 0] / 0.2
    assert 0.599 <= contrast.min() < 0.62 and 1.38 < contrast.max() <= 1.401
    colour = jnp.broadcast_to(jnp.array([0.5, 0.4, 0.3]), (2, 2, 3))
    saturation = np.ptp(changes("saturation", 0.4, colour)[:, 0, 0], axis=1) / 0.2
    assert 0.599 <= saturation.min() < 0.62 and 1.38 < saturation.max() <= 1.401


def test_hue_turns_colours_by_its_angle_and_keeps_greys():
    colour = jnp.broadcast_to(jnp.array([0.6, 0.4, 0.4]), (2, 2, 3))
    turned = changes("hue", 0.1, colour)[:, 0, 0]
    np.testing.assert_allclose(turned @ LUMA, np.array([0.6, 0.4, 0.4]) @ LUMA, atol=2e-3)
    assert np.abs(turned - np.array([0.6, 0.4, 0.4])).max() > 0.05
    np.testing.assert_allclose(changes("hue", 0.5, jnp.full((2, 2, 3), 0.3)), 0.3, atol=1e-3)
    np.testing.assert_allclose(turn(jnp.array([0.25]))[0] @ turn(jnp.array([-0.25]))[0], np.eye(3), atol=1e-5)


@pytest.mark.parametrize("mistake", [{"scale": 1.0}, {"brightness": -0.1}, {"hue": 0.6}, {"grid": 1}, {"uneven": 1.5}])
def test_a_strength_out_of_range_is_a_config_error(mistake):
    with pytest.raises(ConfigError, match=f"{next(iter(mistake))} {next(iter(mistake.values()))}"):
        AugmentConfig(**mistake)
