"""Slots without parameters: which residual goes where, and what is said when it does not fit."""

import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.conditioning import Conditioning
from portrait_jax.errors import ShapeError
from portrait_jax.nn.slots import Residual, Site, apply_slots, level_residual_slot, residual_slot, skip_residual_slots

X = jnp.zeros((1, 2, 4, 4, 3))
RESIDUALS = tuple(X + i for i in (1, 2, 3))


def add(slots, where: str, site: Site, **fields):
    return float(apply_slots(slots, where, site, X, Conditioning(**fields), jnp.float32).mean())


def test_levels_skips_and_the_middle_each_get_their_own():
    level, skips = (level_residual_slot(),), skip_residual_slots()
    sites = [Site("down_blocks_1", 4, 1, 3), Site("skips", 0, None, 3), Site("mid_block", 0, None, 3)]
    assert add(level, "after_level", sites[0], level_residuals=RESIDUALS) == 2
    assert add(skips, "after_encoder", sites[1], skip_residuals=RESIDUALS) == 1
    assert add(skips, "after_mid", sites[2], skip_residuals=RESIDUALS) == 3
    assert add((*level, *skips), "after_mid", sites[2], level_residuals=RESIDUALS) == 0
    assert add((residual_slot(),), "after_conv_in", Site("conv_in", 0, 0, 3), spatial=RESIDUALS[2]) == 3


def test_one_control_picture_serves_all_frames():
    np.testing.assert_array_equal(Residual()(X, RESIDUALS[1][:, :1]), X + 2)


def test_mistakes_name_both_numbers():
    with pytest.raises(ShapeError, match="3 residuals were given, and number 3 is read"):
        Residual(index=3)(X, RESIDUALS)
    with pytest.raises(ShapeError, match=r"\(1, 2, 2, 4, 3\) cannot be added to features of shape \(1, 2, 4, 4, 3\)"):
        Residual()(X, X[:, :, :2])
