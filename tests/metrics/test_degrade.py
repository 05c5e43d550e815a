"""Damage for training: it stays within bounds, moves points with pixels, and differs from image to image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.metrics import degrade


@pytest.fixture(scope="module")
def image():
    """A smooth picture with a bright dot."""
    y, x = np.mgrid[:64, :64] / 64
    picture = np.stack([0.3 + 0.2 * x, 0.4 + 0.2 * y, 0.5 * np.ones_like(x)], axis=-1)
    return jnp.asarray(picture, jnp.float32)


def test_damaged_images_stay_in_range_and_differ_by_key(image):
    damage = jax.jit(degrade.degrade)
    damaged = [damage(jax.random.key(k), image) for k in range(3)]
    assert all(one.shape == image.shape and float(one.min()) >= 0 and float(one.max()) <= 1 for one in damaged)
    assert float(jnp.abs(damaged[0] - damaged[1]).mean()) > 0.01


@pytest.mark.parametrize("step", degrade.STEPS, ids=lambda step: step.__name__)
def test_no_step_destroys_the_picture(step, image):
    changed = jax.jit(jax.vmap(step, in_axes=(0, None)))(jax.random.split(jax.random.key(0), 8), image)
    assert 0 < float(jnp.abs(changed - image).mean()) < 0.2


def test_points_move_with_the_pixels_under_them(image):
    # Half grey around a bright dot: what comes in from outside is half grey too.
    dot = jnp.full_like(image, 0.5).at[20:24, 40:44].set(1.0)
    y, x = (np.mgrid[:64, :64] + 0.5) / 64
    rescale = jax.jit(degrade.rescale)
    for k in range(5):
        moved, points = rescale(jax.random.key(k), dot, jnp.array([[42 / 64, 22 / 64]]))
        weight = np.asarray(moved[..., 0]) - 0.5
        found = np.array([(x * weight).sum(), (y * weight).sum()]) / weight.sum()
        np.testing.assert_allclose(found, points[0], atol=0.3 / 64)


def test_cosine_basis_is_orthonormal():
    basis = degrade._cosine_basis()
    np.testing.assert_allclose(basis @ basis.T, np.eye(8), atol=1e-6)
