"""Protects: which way each side of the game is pushed, and that real pictures teach nothing backwards."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.adversarial.losses import feature_distance, hinge_discriminator, hinge_generator


def test_the_hinge_stops_beyond_its_margin():
    real, fake = jnp.array([2.0, 0.5]), jnp.array([-3.0, 1.0])
    assert float(hinge_discriminator(real, fake)) == pytest.approx((0 + 0.5) / 2 + (0 + 2.0) / 2)
    slope_real, slope_fake = jax.grad(hinge_discriminator, (0, 1))(real, fake)
    np.testing.assert_allclose(slope_real, [0, -0.5])
    np.testing.assert_allclose(slope_fake, [0, 0.5])
    assert float(hinge_generator(fake)) == pytest.approx(1.0)


def test_features_are_compared_layer_by_layer_and_only_one_side_learns():
    ours, theirs = (
        [jnp.ones((1, 2, 2, 1)), jnp.zeros((1, 1, 1, 4))],
        [jnp.zeros((1, 2, 2, 1)), jnp.full((1, 1, 1, 4), 3.0)],
    )
    assert float(feature_distance(ours, theirs)) == pytest.approx(1 + 3)
    slopes = jax.grad(lambda a, b: feature_distance(a, b), (0, 1))(ours, theirs)
    assert all(np.abs(leaf).max() > 0 for leaf in slopes[0]) and all(np.abs(leaf).max() == 0 for leaf in slopes[1])
    with pytest.raises(ValueError):
        feature_distance(ours, theirs[:1])
